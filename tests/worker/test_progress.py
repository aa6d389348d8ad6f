"""How long a training still takes: by the pace of this attempt, once it has one."""

from __future__ import annotations

import pytest

from lit_spec import Phase
from lit_spec.trainer.messages import EpochDone, Progress, StudentMeasured
from lit_spec.trainer.phases import JobPhase
from worker.training.progress import LEAST_SECONDS, AttemptProgress


def step(number: int, fraction: float) -> Progress:
    return Progress(phase=JobPhase.LIT, epochs=2, step=number, steps=50, fraction=fraction)


def test_the_start_of_the_trainer_does_not_count() -> None:
    attempt = AttemptProgress(0.0)
    attempt.take(Progress(phase=JobPhase.LOADING), 100)
    attempt.take(Progress(phase=JobPhase.LIT, epochs=2, step=0, steps=50), 200)
    attempt.take(step(1, 0.01), 300)
    assert attempt.seconds_left(300) is None, "one point in time is no pace"
    attempt.take(step(2, 0.02), 300 + LEAST_SECONDS / 2)
    assert attempt.seconds_left(300 + LEAST_SECONDS / 2) is None
    attempt.take(step(11, 0.11), 310)
    assert attempt.seconds_left(310) == pytest.approx(89)
    assert attempt.seconds_left(314) == pytest.approx(85), "nothing new since 4 s"
    assert attempt.seconds_left(1000) == 0


def test_what_earlier_attempts_did_is_not_done_again_and_does_not_count_as_pace() -> None:
    attempt = AttemptProgress(0.5)
    attempt.take(Progress(phase=JobPhase.LOADING), 0)
    assert (attempt.newest(0) or {})["fraction"] == 0.5
    attempt.take(step(30, 0.6), 10)
    attempt.take(step(40, 0.7), 20)
    assert attempt.seconds_left(20) == pytest.approx(30)


def test_an_unstable_training_that_goes_back_begins_to_be_measured_again() -> None:
    attempt = AttemptProgress(0.0)
    attempt.take(step(20, 0.2), 0)
    attempt.take(step(40, 0.4), 10)
    attempt.take(step(10, 0.1), 20)
    assert attempt.seconds_left(20) is None
    attempt.take(step(20, 0.2), 25)
    assert attempt.seconds_left(25) == pytest.approx(40)


def test_after_the_training_nothing_is_estimated() -> None:
    attempt = AttemptProgress(0.0)
    attempt.take(step(1, 0.1), 0)
    attempt.take(step(40, 1.0), 100)
    attempt.take(Progress(phase=JobPhase.EXPORTING), 101)
    assert attempt.seconds_left(101) is None
    assert attempt.newest(101) == {
        **{"phase": "exporting", "epoch": 0, "epochs": 0, "step": None, "steps": None, "fraction": 1.0}
    }


def test_progress_alone_is_recorded_once_a_second() -> None:
    attempt = AttemptProgress(0.0)
    assert (attempt.is_due(50), attempt.newest(50)) == (False, None)
    attempt.take(step(1, 0.1), 50)
    assert attempt.is_due(50)
    attempt.newest(50)
    assert not attempt.is_due(60), "nothing is new"
    attempt.take(step(2, 0.2), 50.5)
    assert (attempt.is_due(50.9), attempt.is_due(51)) == (False, True)


def test_an_epoch_has_the_steps_of_its_phase_and_a_student_of_a_plan_counts_as_an_epoch() -> None:
    attempt = AttemptProgress(0.0)
    attempt.take(step(49, 0.49), 0)
    attempt.take(EpochDone(phase=Phase.LIT, epoch=1, epochs=2, fraction=0.5, metrics={}), 1)
    assert (attempt.newest(1) or {}) | {"epoch": 1, "step": 0, "steps": 50, "fraction": 0.5} == attempt.newest(1)
    attempt.take(EpochDone(phase=Phase.FINE_TUNE, epoch=1, epochs=1, fraction=1, metrics={}), 1)
    assert (attempt.newest(1) or {})["steps"] is None
    attempt = AttemptProgress(0.0)
    attempt.take(StudentMeasured(number=1, students=4), 0)
    assert (attempt.newest(0) or {}) | {"phase": "plan", "epoch": 1, "epochs": 4, "fraction": 0.25} == attempt.newest(0)
    attempt.take(StudentMeasured(number=3, students=0), 0)
    assert (attempt.newest(0) or {})["fraction"] == 0
