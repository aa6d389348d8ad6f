"""The recipe for a student of a pretrained network, chosen by a short race on its own data before the training.

What is pretrained is soon destroyed by too high a learning rate, and which loss suits it depends on the network and on
the data. So candidates take a few steps each from the same start, and the one that is then closest to the teacher is
used for the training. First the learning rate that was asked for is cut until it does no harm or, if it does none,
raised until that is clearly worse. Then methods compete at that rate: at one that is far too low, a method that is
quick at the start would win. In a race of rates the second half is left out.

Methods and higher rates compete on held-out samples alone. On the samples that were trained on, the method whose loss
is what is compared wins always, and the higher rate nearly always, however much worse they are on others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lit_core.networks.state_dicts import load_state
from lit_core.seeding import generator_of, mix, seed_globals
from lit_core.training.checkpoint import copy_of_state
from lit_core.training.group import ALONE, Group
from lit_core.training.setbacks import finite_or_none
from lit_core.training.steps import samples_of, steps_per_epoch
from lit_core.training.task import Trainable
from lit_spec import Hyperparameters, Method, Output, Phase
from lit_spec.trainer.report import Race, Racer

RIVALS = (Method.MIMIC, Method.KD)
"""Methods that compete with the one that was asked for."""
RATE_FACTOR, MOST_CLIMBS, MOST_CUTS = 3.0, 3, 6
"""Learning rates compete by this factor."""
SHARE = 0.03
"""The part of the training's steps that each candidate takes."""
LEAST_STEPS, MOST_STEPS = 20, 50
LEAD = 0.1
"""The part by which a rival must be closer to the teacher than the best so far: less is chance."""
HARM = 1.5
"""Times the divergence of the start: a learning rate that leads there destroys what is pretrained. Less is normal after
so few steps, and made up for by the training."""


def race(task: Trainable, asked: Hyperparameters, before_each: Callable[[int], None], group: Group = ALONE) -> Race:
    """Find the method and the learning rate that bring the student closest to the teacher in a few steps; without
    held-out samples only a learning rate that does no harm.

    The student is as before afterwards. `before_each` is called before each candidate, with the number of those
    before it, and may raise.
    """
    start, before = copy_of_state(task.student.network), group.from_first(task.divergence)
    steps = _steps(task, asked)
    racers: list[Racer] = []

    def reached_by(candidate: Hyperparameters) -> float:
        before_each(len(racers))
        load_state(task.student.network, start)
        _train(task, candidate, steps, group)
        reached = group.from_first(task.divergence)
        racers.append(_racer(candidate, reached))
        return reached

    best = Ranked(asked, reached_by(asked))
    best = _without_harm(best, before, reached_by)
    if task.held_out:
        if _rate(best.candidate) == _rate(asked):
            best = _at_best_rate(best, reached_by)
        for method in _rivals(task, asked):
            best = best.or_better(best.candidate.model_copy(update={"method": method}), reached_by)
    load_state(task.student.network, start)
    task.rewind()
    return Race(
        method=best.candidate.method,
        learning_rate=_rate(best.candidate),
        steps=steps,
        before=finite_or_none(before),
        racers=racers,
    )


@dataclass(frozen=True)
class Ranked:
    """A candidate, and how far from the teacher the student was after its steps."""

    candidate: Hyperparameters
    divergence: float

    def or_better(self, rival: Hyperparameters, reached_by: Callable[[Hyperparameters], float]) -> Ranked:
        reached = reached_by(rival)
        if not math.isfinite(reached):
            return self
        wins = reached < (1 - LEAD) * self.divergence or not math.isfinite(self.divergence)
        return Ranked(rival, reached) if wins else self


def _without_harm(best: Ranked, before: float, reached_by: Callable[[Hyperparameters], float]) -> Ranked:
    """The learning rate is cut until the steps don't take the student far away from the teacher."""
    tried = best.candidate
    for _ in range(MOST_CUTS):
        if best.divergence < HARM * before:
            break
        tried = at_rate(tried, 1 / RATE_FACTOR)
        best = best.or_better(tried, reached_by)
    return best


def _at_best_rate(first: Ranked, reached_by: Callable[[Hyperparameters], float]) -> Ranked:
    """Learning rates up until one is clearly worse than the best so far, because far below the best rate three times
    more hardly changes anything, and may look worse by chance. Of these the lowest that is nearly as good as the best
    one; if that is the first, it may also go down."""
    climbed = [first]
    for _ in range(MOST_CLIMBS):
        higher = at_rate(climbed[-1].candidate, RATE_FACTOR)
        reached = reached_by(higher)
        if not (1 - LEAD) * reached < _least(climbed):
            break
        climbed.append(Ranked(higher, reached))
    best = next((one for one in climbed if (1 - LEAD) * one.divergence <= _least(climbed)), first)
    return best if best is not first else first.or_better(at_rate(first.candidate, 1 / RATE_FACTOR), reached_by)


def _least(ranked: Sequence[Ranked]) -> float:
    return min(one.divergence for one in ranked)


def _rivals(task: Trainable, asked: Hyperparameters) -> list[Method]:
    """Methods that train something else than the one that was asked for: features depend on the blocks alone, and those
    of an embedding network are its output."""
    if asked.race == "rates":
        return []
    if asked.output == Output.EMBEDDING:
        return [] if asked.method in RIVALS else [Method.KD]
    able = RIVALS if task.student.sections_learn else (Method.KD,)
    return [method for method in able if method != asked.method]


def _rate(candidate: Hyperparameters) -> float:
    """Of the phase that is raced."""
    return candidate.schedule.of(_first_phase(candidate)).learning_rate


def with_winner(asked: Hyperparameters, found: Race) -> Hyperparameters:
    """The hyperparameters with the winner's method and learning rates."""
    factor = found.learning_rate / _rate(asked)
    return at_rate(asked.model_copy(update={"method": found.method}), factor)


def at_rate(asked: Hyperparameters, factor: float) -> Hyperparameters:
    """The hyperparameters with the learning rates of both phases multiplied."""
    schedule = asked.schedule
    phases = {
        name: phase.model_copy(update={"learning_rate": phase.learning_rate * factor})
        for name, phase in (("lit", schedule.lit), ("fine_tune", schedule.fine_tune))
    }
    return asked.model_copy(update={"schedule": schedule.model_copy(update=phases)})


def note_of(found: Race, asked: Hyperparameters) -> str | None:
    """A sentence that says what won; None if it is what was asked for."""
    if (found.method, found.learning_rate) == (asked.method, _rate(asked)):
        return None
    first = found.racers[0]
    won = next(r for r in found.racers if (r.method, r.learning_rate) == (found.method, found.learning_rate))
    return (
        f"the student was trained with method {won.method} at the learning rate {won.learning_rate:g}, because after "
        f"{found.steps} steps it was closer to the teacher than with {first.method} at {first.learning_rate:g} "
        f"({_shown(won.divergence)} against {_shown(first.divergence)}, and {_shown(found.before)} before)"
    )


def _steps(task: Trainable, asked: Hyperparameters) -> int:
    epochs = asked.schedule.lit.epochs + asked.schedule.fine_tune.epochs
    return min(max(round(SHARE * epochs * steps_per_epoch(task.samples, asked.schedule)), LEAST_STEPS), MOST_STEPS)


def _train(task: Trainable, candidate: Hyperparameters, steps: int, group: Group) -> None:
    """A few steps with a learning rate that falls to zero. All candidates get the same samples, if the task's data has
    the same order whenever it begins again."""
    phase, seed = _first_phase(candidate), candidate.seed
    updater = task.updater(phase, candidate)
    updater.begin_epoch()
    task.rewind()
    rate = candidate.schedule.of(phase).learning_rate
    per_epoch = steps_per_epoch(task.samples, candidate.schedule)
    for number in range(steps):
        epoch, step = divmod(number, per_epoch)
        samples = samples_of(task.views, task.samples, candidate.schedule, seed, phase, epoch, step)
        place = (phase.value, epoch, step)
        seed_globals(mix(seed, "race modules", *place))
        batch = task.batch(samples, 0.0, generator_of(seed, "race", *place))
        updater.step(group.share_of(batch), rate * (1 - number / steps))


def _first_phase(asked: Hyperparameters) -> Phase:
    return Phase.LIT if asked.schedule.lit.epochs > 0 else Phase.FINE_TUNE


def _racer(candidate: Hyperparameters, reached: float) -> Racer:
    return Racer(method=candidate.method, learning_rate=_rate(candidate), divergence=finite_or_none(reached))


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
