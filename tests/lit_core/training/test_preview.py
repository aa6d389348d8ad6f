"""What is measured before the first step does not grow with the data, and decides nothing that epochs are chosen by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_core.data.dataset import Arrays
from lit_core.data.labels import NO_LABEL
from lit_core.data.sampled import at_most
from lit_core.networks.block_selection import Selection
from lit_core.tasks import classification
from lit_core.tasks.batches import IterableTask
from lit_core.trainer.job import JobObserver, run_job
from lit_core.trainer.supervision import DeadlineWatch
from lit_core.training.loop import TrainedStudent, train_student
from lit_core.training.task import Scores
from lit_spec.trainer.messages import TeacherMeasured
from tests.lit_core.trainer.conftest import few_passes, teacher_file
from tests.lit_core.trainer.test_methods import prepare, read_report
from tests.lit_core.trainer.test_training import KeptMessages
from tests.lit_core.training.test_race import asked, task

__all__ = ["few_passes", "teacher_file"]


class Hopeful(IterableTask):
    """Finds every student excellent before the first step."""

    def preview(self) -> Scores:
        return Scores(1000.0, {"agreement": 1000.0})


def trained(one: IterableTask, folder: Path) -> TrainedStudent[IterableTask]:
    observer = JobObserver(KeptMessages(), DeadlineWatch(), folder)
    return train_student(one, one.hyperparameters, observer, selection=Selection([[0, 2], [0, 2]]))


def test_epochs_are_compared_with_the_start_on_all_samples(tmp_path: Path) -> None:
    (exact,) = trained(task(asked(1e-3, epochs=(2, 2))), tmp_path).chosen
    hopeful = task(asked(1e-3, epochs=(2, 2)))
    hopeful.__class__ = Hopeful
    hopeful.previews = True
    (found,) = trained(hopeful, tmp_path).chosen
    assert exact.epoch > 0
    assert (found.epoch, found.score) == (exact.epoch, exact.score)
    assert all(torch.equal(tensor, exact.state[name]) for name, tensor in found.state.items())


def test_a_job_looks_at_few_samples_before_its_first_step_and_reports_all(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    for samples in (24, 8):
        monkeypatch.setattr(classification, "PREPARATION_SAMPLES", samples)
        folder, messages = tmp_path / f"{samples}", KeptMessages()
        prepare(folder, teacher_file)
        run_job(folder, messages, DeadlineWatch())
        report = read_report(folder)
        (told,) = [message.data for message in messages.messages if isinstance(message, TeacherMeasured)]
        assert told["samples"] == samples
        assert report["teacher_accuracy"]["samples"] == report["samples"]["val"] == 24
        measured.append((report["teacher"]["accuracy"], report["selected"], report["student"]["accuracy"]))
    assert measured[0] == measured[1]


def test_samples_with_a_label_come_first() -> None:
    y = torch.full((50,), NO_LABEL)
    y[40:] = torch.arange(10)
    arrays = Arrays(torch.arange(50.0)[:, None], y)
    assert at_most(50, arrays) is arrays
    few = at_most(12, arrays)
    assert few.labels == 10
    assert torch.equal(few.x[-10:, 0], torch.arange(40.0, 50.0))
    assert torch.equal(at_most(12, arrays).x[:], few.x[:])
