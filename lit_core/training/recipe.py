"""The recipe for a student of a pretrained network, chosen by a short race on its own data before the training.

What is pretrained is soon destroyed by too high a learning rate, and which loss suits it depends on the network and on
the data. So candidates take a few steps each from the same start, and the one that is then closest to the teacher is
used for the training. First methods compete at the learning rate that was asked for, then the winner's learning rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lit_core.networks.state_dicts import load_state
from lit_core.seeding import generator_of, mix, seed_globals
from lit_core.training.checkpoint import copy_of_state
from lit_core.training.mixing import mixed
from lit_core.training.setbacks import finite_or_none
from lit_core.training.steps import rows_of, steps_per_epoch
from lit_core.training.task import Trainable
from lit_spec import Hyperparameters, Method, Phase
from lit_spec.trainer.report import Race, Racer

RIVALS = (Method.MIMIC, Method.KD)
"""Methods that compete with the one that was asked for."""
RATE_FACTOR, MOST_CLIMBS = 3.0, 3
"""Learning rates compete by this factor, up as long as that helps, or down once."""
SHARE = 0.03
"""The part of the training's steps that each candidate takes."""
LEAST_STEPS, MOST_STEPS = 20, 50
LEAD = 0.1
"""The part by which a rival must be closer to the teacher than the best so far: less is chance."""


def race(task: Trainable, asked: Hyperparameters, before_each: Callable[[], None]) -> Race:
    """Find the method and the learning rate that bring the student closest to the teacher in a few steps.

    The student is as before afterwards. `before_each` is called before each candidate, and may raise.
    """
    start, before, steps = copy_of_state(task.student.network), task.divergence(), _steps(task, asked)
    racers: list[Racer] = []

    def reached_by(candidate: Hyperparameters) -> float:
        before_each()
        load_state(task.student.network, start)
        _train(task, candidate, steps)
        reached = task.divergence()
        racers.append(_racer(candidate, reached))
        return reached

    best, least = asked, reached_by(asked)
    rivals = [asked.model_copy(update={"method": method}) for method in RIVALS if method != asked.method]
    best, least = _best(best, least, rivals, reached_by)
    for _ in range(MOST_CLIMBS):
        below, (best, least) = best, _best(best, least, [at_rate(best, RATE_FACTOR)], reached_by)
        if best is below:
            break
    if best.schedule.lit.learning_rate <= asked.schedule.lit.learning_rate:
        best, least = _best(best, least, [at_rate(best, 1 / RATE_FACTOR)], reached_by)
    load_state(task.student.network, start)
    rate = best.schedule.lit.learning_rate
    return Race(method=best.method, learning_rate=rate, steps=steps, before=finite_or_none(before), racers=racers)


def _best(
    best: Hyperparameters,
    least: float,
    rivals: Sequence[Hyperparameters],
    reached_by: Callable[[Hyperparameters], float],
) -> tuple[Hyperparameters, float]:
    for rival in rivals:
        reached = reached_by(rival)
        if reached < (1 - LEAD) * least or not math.isfinite(least):
            best, least = rival, reached
    return best, least


def with_winner(asked: Hyperparameters, found: Race) -> Hyperparameters:
    """The hyperparameters with the winner's method and learning rates."""
    factor = found.learning_rate / asked.schedule.lit.learning_rate
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
    rate = asked.schedule.lit.learning_rate
    if (found.method, found.learning_rate) == (asked.method, rate):
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


def _train(task: Trainable, candidate: Hyperparameters, steps: int) -> None:
    """A few steps with a learning rate that falls to zero, with the same samples for every candidate."""
    phase, seed = _first_phase(candidate), candidate.seed
    updater = task.updater(phase, candidate)
    updater.begin_epoch()
    rate = candidate.schedule.of(phase).learning_rate
    for step in range(steps):
        rows = rows_of(task.samples, candidate.schedule, seed, phase, 0, step)
        place = (phase.value, 0, step)
        seed_globals(mix(seed, "race modules", *place))
        batch = task.batch(rows, 0.0, generator_of(seed, "race augment", *place), generator_of(seed, "race", *place))
        updater.step(mixed(batch, candidate.mixing), rate * (1 - step / steps))


def _first_phase(asked: Hyperparameters) -> Phase:
    return Phase.LIT if asked.schedule.lit.epochs > 0 else Phase.FINE_TUNE


def _racer(candidate: Hyperparameters, reached: float) -> Racer:
    rate = candidate.schedule.lit.learning_rate
    return Racer(method=candidate.method, learning_rate=rate, divergence=finite_or_none(reached))


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
