"""The race before the training: which method, and which learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import lit_core
from lit_core.data.views import SampleViews
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.tasks.batches import IterableTask
from lit_core.training import recipe
from lit_core.training.recipe import note_of, race, with_winner
from lit_spec import Feed, Hyperparameters, Method, Optimizer, Output, Phase, Schedule
from lit_spec.trainer.report import Race
from tests.lit_core.networks.test_discovery import sectioned
from tests.lit_core.selection.test_recovery import TwoSections


def asked(rate: float, epochs: tuple[int, int] = (20, 10), **changes: Any) -> Hyperparameters:
    """`epochs`: of the LIT phase and of fine-tuning."""
    schedule = Schedule(
        lit={"epochs": epochs[0], "learning_rate": rate, "frozen": ["stem"]},
        fine_tune={"epochs": epochs[1], "learning_rate": rate / 10, "frozen": ["stem"]},
        optimizer=Optimizer.ADAM,
        batch_size=16,
        steps_per_epoch=20,
        weight_decay=0.0,
    )
    plain = {"alpha": 0.0, "beta": 0.0, "feed": Feed.STUDENT, "ir_relative": True, "feature_weight": 1.0}
    return Hyperparameters(**{**plain, "schedule": schedule, **changes})


def task(given: Hyperparameters, data: Any = None, *, fixed: bool = False, held_out: bool = True) -> IterableTask:
    network = TwoSections([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    if fixed:
        network.requires_grad_(False)
        network.head.requires_grad_(True)
    teacher = sectioned(network, torch.zeros(2, 3), ["lower", "upper"])
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(16, 3, generator=generator) for _ in range(6)] if data is None else data
    validation = [torch.randn(64, 3, generator=generator)] if held_out else None
    return IterableTask(given, teacher, shortened(teacher, [[0, 2], [0, 2]]), batches, validation, 20, 4)


def state_of(network: SectionedNetwork) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.network.state_dict().items()}


def found_for(given: Hyperparameters, **options: Any) -> Race:
    """The student is as before, whatever the candidates made of it."""
    one = task(given, **options)
    before = state_of(one.student)
    found = race(one, given, lambda _: None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.student.network.state_dict().items())
    return found


def test_a_rate_that_destroys_the_student_is_cut_until_it_does_not() -> None:
    found = found_for(asked(1.0))
    first = next(racer for racer in found.racers if racer.learning_rate == 1.0)
    assert first.divergence is not None
    assert found.before is not None
    assert first.divergence > recipe.HARM * found.before
    assert found.learning_rate < 1
    won = [r for r in found.racers if (r.method, r.learning_rate) == (found.method, found.learning_rate)]
    assert won[0].divergence is not None
    assert won[0].divergence < recipe.HARM * found.before
    assert max(racer.learning_rate for racer in found.racers) == 1.0, "it does not climb from there"


def test_a_rate_that_is_too_low_is_raised() -> None:
    found = found_for(asked(3e-4))
    assert found.learning_rate == pytest.approx(27 * 3e-4)
    reached = [racer.divergence for racer in found.racers if racer.method == Method.LIT]
    assert reached == sorted(reached, reverse=True)


def test_a_rate_that_hardly_moves_the_student_is_raised_too() -> None:
    """Three times more does not help much either, but what follows does."""
    found = found_for(asked(3e-5))
    assert [racer.learning_rate for racer in found.racers[:4]] == pytest.approx([3e-5, 9e-5, 27e-5, 81e-5])
    first, second, _, last = (racer.divergence or math.inf for racer in found.racers[:4])
    assert second > 0.9 * first
    assert last < 0.5 * first
    assert found.learning_rate == pytest.approx(81e-5)


@pytest.mark.parametrize(
    ("reached", "factor"),
    [
        ([2.146, 2.169, 2.0, 1.0], 27),  # worse by chance, far below the best rate
        ([1.0, 1.05, 0.98, 0.95, 1.1], 1),  # none is clearly better: the lowest
        ([1.0, 0.76, 0.7, 0.74], 3),  # the second is nearly as good as the best
        ([1.0, 0.8, 0.95], 3),  # clearly worse: no higher one is tried
        ([1.0, 1.2, 0.8], 1 / 3),
        ([1.0, math.inf, 1.0], 1),
    ],
)
def test_a_rate_is_raised_until_one_is_clearly_worse(
    monkeypatch: pytest.MonkeyPatch, reached: list[float], factor: float
) -> None:
    measured = iter([2.2, *reached])  # the start comes first
    monkeypatch.setattr(IterableTask, "divergence", lambda _task: next(measured))
    found = found_for(asked(1e-3, race="rates"))
    assert found.learning_rate == pytest.approx(factor * 1e-3)
    assert list(measured) == []


def test_methods_compete_at_the_best_rate() -> None:
    """At the rate that is asked for, far too low, distillation is much closer after the same steps."""
    slow = [
        found_for(asked(3e-4, method=method)).racers[0].divergence or math.inf for method in (Method.LIT, Method.KD)
    ]
    assert slow[1] < 0.8 * slow[0]
    assert found_for(asked(3e-4)).method == Method.LIT


def test_in_a_race_of_rates_the_method_stays() -> None:
    whole, rates = (found_for(asked(1e-3, method=Method.KD, race=given)) for given in (True, "rates"))
    assert {racer.method for racer in rates.racers} == {Method.KD}
    assert rates.racers == whole.racers[: len(rates.racers)]
    assert len(rates.racers) < len(whole.racers)


def test_a_rate_that_is_right_stays_or_has_a_neighbour() -> None:
    found = found_for(asked(5e-3))
    assert 1e-3 < found.learning_rate < 0.05
    assert {racer.method for racer in found.racers} == {Method.LIT, Method.MIMIC, Method.KD}


def test_the_winner_is_the_closest_to_the_teacher() -> None:
    found = found_for(asked(1e-3, method=Method.MIMIC))
    measured = [racer.divergence for racer in found.racers if racer.divergence is not None]
    (won,) = {r.divergence for r in found.racers if (r.method, r.learning_rate) == (found.method, found.learning_rate)}
    assert won is not None
    assert won <= min(measured) / (1 - recipe.LEAD)


def test_nothing_wins_where_nothing_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IterableTask, "divergence", lambda _task: math.nan)
    found = found_for(asked(1e-3))
    assert (found.method, found.learning_rate) == (Method.LIT, 1e-3)


def test_the_same_race_has_the_same_result() -> None:
    given = asked(1e-3, mixing=0.5)
    found = found_for(given)
    assert found == found_for(given)
    assert found.racers != found_for(asked(1e-3, mixing=0.5, seed=1)).racers


class Counting:
    """Data with an order of its own."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def __len__(self) -> int:
        return 23

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(23):
            self.given.append(number)
            yield torch.randn(16, 3, generator=torch.Generator().manual_seed(number))


def test_every_candidate_and_the_training_get_the_data_from_its_start() -> None:
    data, given = Counting(), asked(1e-3)
    one = task(given, data)
    found = race(one, given, lambda _: None)
    runs = "".join(chr(97 + number) for number in data.given).split("a")[1:]
    # 600 steps, of which a candidate takes 3 %, but not fewer than 20; a pass has 23.
    assert (found.steps, len(runs)) == (20, len(found.racers))
    assert {len(run) for run in runs} == {19}
    data.given.clear()
    one.batch(SampleViews(torch.arange(16), torch.zeros(16).long(), 0), 0.0, torch.Generator())
    assert data.given == [0]


def test_without_validation_data_methods_and_higher_rates_do_not_compete() -> None:
    """On samples that are trained on, `kd` is closest to the teacher by its own loss, and so is the highest rate."""
    found = found_for(asked(3e-4), held_out=False)
    assert [(racer.method, racer.learning_rate) for racer in found.racers] == [(Method.LIT, 3e-4)]
    assert (found.method, found.learning_rate) == (Method.LIT, 3e-4)


def test_without_validation_data_a_rate_that_destroys_the_student_is_cut_all_the_same() -> None:
    found = found_for(asked(1.0), held_out=False)
    assert found.learning_rate < 1
    assert {racer.method for racer in found.racers} == {Method.LIT}


def test_without_validation_data_candidates_are_compared_on_the_same_samples() -> None:
    """The data gives another order in each pass."""
    x = torch.randn(320, 3, generator=torch.Generator().manual_seed(4))
    loader = DataLoader(TensorDataset(x), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(0))
    one = task(asked(1e-3), loader, held_out=False)
    assert one.divergence() == one.divergence() > 0


def test_short_data_is_gone_through_several_times() -> None:
    """A job's epoch has three steps here, of which the last has few samples; a race has ten at least."""
    given = asked(1e-3)
    schedule = given.schedule.model_copy(update={"steps_per_epoch": None})
    rows = []

    class Watched(IterableTask):
        def batch(self, samples: SampleViews, *rest: Any) -> Any:
            rows.append(samples.rows)
            return super().batch(samples, *rest)

    given = given.model_copy(update={"schedule": schedule})
    one = task(given)
    one.__class__ = Watched
    one.samples = 40
    found = race(one, given, lambda _: None)
    assert found.steps > 3
    assert min(len(some) for some in rows) == 8


def test_only_methods_that_can_train_something_compete() -> None:
    """Features don't depend on the head; those of an embedding network are its output."""
    fixed = found_for(asked(1e-3, method=Method.KD), fixed=True)
    assert {racer.method for racer in fixed.racers} == {Method.KD}
    embedding = found_for(asked(1e-3, output=Output.EMBEDDING))
    assert {racer.method for racer in embedding.racers} == {Method.LIT, Method.KD}


def test_the_winners_rates_are_used_in_both_phases() -> None:
    given = asked(1e-3)
    found = Race(method=Method.KD, learning_rate=3e-3, steps=10, before=1.0, racers=[])
    used = with_winner(given, found)
    assert used.method == Method.KD
    assert used.schedule.of(Phase.LIT).learning_rate == pytest.approx(3e-3)
    assert used.schedule.of(Phase.FINE_TUNE).learning_rate == pytest.approx(3e-4)
    same = Race(method=Method.LIT, learning_rate=1e-3, steps=10, before=1.0, racers=[])
    assert with_winner(given, same) == given
    assert note_of(same, given) is None


def compressed(data: list[Tensor], **changes: Any) -> lit_core.Compressed:
    network = TwoSections([1.0, 1.0], [1.0, 1.0])
    return lit_core.compress(network, data, depth=3, sections=["lower", "upper"], preset="few", **changes)


def test_compress_says_what_it_used_instead() -> None:
    generator = torch.Generator().manual_seed(1)
    data = [torch.randn(16, 3, generator=generator) for _ in range(6)]
    made = compressed(
        data,
        validation=[torch.randn(64, 3, generator=generator)],
        schedule={"lit": {"epochs": 2, "learning_rate": 10.0}},
    )
    assert made.report["race"]["learning_rate"] < 10
    (note,) = [note for note in made.report["notes"] if "because after" in note]
    assert "than with lit at 10" in note
    assert made.report["epochs"][0]["learning_rate"] < 10


def test_compress_says_what_could_not_compete() -> None:
    data = [torch.randn(16, 3, generator=torch.Generator().manual_seed(1))]
    for given, said in ((True, 1), ("rates", 1), (False, 0)):
        made = compressed(data, race=given, schedule={"lit": {"epochs": 1}})
        assert sum("no higher learning rate was tried" in note for note in made.report["notes"]) == said


def test_without_a_lit_phase_the_rates_are_those_of_fine_tuning() -> None:
    given = asked(1e-3)
    last = given.schedule.fine_tune.model_copy(update={"epochs": 20, "learning_rate": 1e-3})
    lit = given.schedule.lit.model_copy(update={"epochs": 0, "learning_rate": 50.0})
    given = given.model_copy(
        update={"method": Method.KD, "schedule": given.schedule.model_copy(update={"lit": lit, "fine_tune": last})}
    )
    found = found_for(given)
    assert found.racers[0].learning_rate == 1e-3
    factor = found.learning_rate / 1e-3
    assert with_winner(given, found).schedule.fine_tune.learning_rate == pytest.approx(1e-3 * factor)
