"""What a trainer tells of its progress: every phase, and every step where it tells all of them."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from lit_core.trainer.job import run_job
from lit_core.training import loop, recipe
from lit_core.training.loop import Drained
from lit_spec.trainer.messages import EpochDone, Progress
from lit_spec.trainer.phases import JobPhase
from tests.lit_core.trainer.test_methods import StopsAt, prepare
from tests.lit_core.trainer.test_recipe import FEW
from tests.lit_core.trainer.test_training import KeptMessages

TRAINING = ("lit", "fine_tune", "prune")


@pytest.fixture(autouse=True)
def every_step_is_told_and_races_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_PROGRESS", 0.0)
    monkeypatch.setattr(recipe, "LEAST_STEPS", 2)
    monkeypatch.setattr(recipe, "MOST_STEPS", 2)


def told(kept: KeptMessages) -> list[Progress]:
    return [message for message in kept.messages if isinstance(message, Progress)]


class StopsAfter:
    """Asks for a stop once a step has been told."""

    def __init__(self, kept: KeptMessages, phase: JobPhase, epoch: int, step: int) -> None:
        self.kept, self.place = kept, (phase, epoch, step)

    @property
    def stop_requested(self) -> bool:
        return any((message.phase, message.epoch, message.step) == self.place for message in told(self.kept))


def phases(found: list[Progress]) -> list[str]:
    return [phase.value for phase, _ in groupby(message.phase for message in found)]


def test_the_phases_and_steps_of_a_job_and_of_one_that_resumes(tmp_path: Path, teacher_file: Path) -> None:
    prepare(tmp_path / "job", teacher_file, **FEW, then=["prune:0.4"])
    first = KeptMessages()
    with pytest.raises(Drained):
        run_job(tmp_path / "job", first, StopsAfter(first, JobPhase.LIT, 1, 2))
    before = phases(told(first))
    assert before == ["loading", "choosing_blocks", "repairing", "measuring_teacher", "racing", "lit"]
    racers = [message.step for message in told(first) if message.phase == "racing"]
    assert racers == list(range(len(racers)))
    assert len(racers) > 2

    second = KeptMessages()
    run_job(tmp_path / "job", second, StopsAt(10**6))
    assert phases(told(second)) == [
        "loading",
        "measuring_teacher",
        "lit",
        "fine_tune",
        "prune",
        "measuring_student",
        "exporting",
        "after_training",
    ]
    fractions = [
        message.fraction
        for kept in (first, second)
        for message in kept.messages
        if isinstance(message, Progress | EpochDone) and message.fraction is not None
    ]
    # Three epochs of LIT, one of fine-tuning and one after the pruning, of four steps each.
    assert fractions == pytest.approx([number / 20 for number in range(1, 21)])
    steps = [
        (m.phase.value, m.epoch, m.epochs, m.step, m.steps) for m in told(second) if m.phase in TRAINING and m.step
    ]
    assert steps[-6:] == [(phase, 0, 1, step, 4) for phase in ("fine_tune", "prune") for step in (1, 2, 3)]


def test_a_search_for_a_target_is_a_phase(tmp_path: Path, teacher_file: Path) -> None:
    student = {"target": {"parameters_ratio": 1.5}, "select": "even"}
    prepare(tmp_path / "job", teacher_file, student=student)
    kept = KeptMessages()
    with pytest.raises(Drained):
        run_job(tmp_path / "job", kept, StopsAt(0))
    assert phases(told(kept))[:3] == ["loading", "searching_target", "measuring_teacher"]
