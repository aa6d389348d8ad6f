"""The untrained student as epoch 0, and what the report says about the worth of the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from lit_core.tasks.classification import Classification
from lit_core.trainer.job import run_job
from lit_core.training.checkpoint import load_checkpoint
from lit_core.training.loop import Drained
from lit_core.training.task import Scores
from lit_spec import Phase
from tests.lit_core.trainer.test_methods import StopsAt, prepare, read_report, run, train_in
from tests.lit_core.trainer.test_training import KeptMessages, stripes

HARMFUL = {"alpha": 1, "beta": 1}
"""With these the student learns the labels of `misleading`."""
HARD = {"epochs": 2, "learning_rate": 0.1, "schedule": {"kind": "constant"}}
STILL = {"lit": {"epochs": 1, "learning_rate": 1e-12}, "fine_tune": {"epochs": 0}}
DIGITS = Path(__file__).parents[3] / "examples/digits/teacher.safetensors"
"""Its data has enough samples in the test split to tell chance."""


def misleading() -> dict[str, Any]:
    """Data whose training split has wrong labels: the more a student learns from them, the worse it gets."""
    x, y = stripes()
    split = np.arange(len(y)) // 80
    return {"x": x, "y": np.where(split == 0, (y + 1) % 3, y), "split": split}


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lit"},
        {"method": "kd", "then": ["prune:0.1"]},
        {"method": "at", "seed": 3},
        {"method": "prune"},
        {"method": "scratch", "student": {"depth": 14, "init": "inherit"}},
        {"method": "lit", "schedule": {"lit": {"epochs": 0}, "fine_tune": HARD}},
    ],
)
def test_a_student_that_training_makes_worse_stays_untrained(
    tmp_path: Path, teacher_file: Path, changes: dict[str, Any]
) -> None:
    schedule = {"lit": HARD, "fine_tune": {"epochs": 1}}
    request = {**HARMFUL, "schedule": schedule, "accept": {"max_accuracy_drop": 100}, **changes}
    report = run(tmp_path / "job", teacher_file, misleading(), **request)
    first = Phase.LIT if request["schedule"]["lit"]["epochs"] else Phase.FINE_TUNE
    assert (report["selected"]["phase"], report["selected"]["epoch"]) == (first, 0)
    before = report["baselines"]["untrained"]
    assert before["accuracy"] == report["student"]["accuracy"]
    assert before["agreement"] == report["student"]["agreement"]
    assert before["accuracy"]["val"] == report["selected"]["value"]
    assert min(epoch["student_accuracy"] for epoch in report["epochs"]) < before["accuracy"]["val"]
    assert report["outcome"] == "no-better-than-untrained"
    assert "the untrained one, because no epoch was better" in report["notes"][-1]
    as_good_as_the_teacher = report["accuracy_drop"] <= 0
    assert report["accepted"] is as_good_as_the_teacher
    if changes["method"] not in ("prune", "scratch") and "then" not in changes:
        teacher = load_file(teacher_file)
        student = load_file(tmp_path / "job" / "output" / "model.safetensors")
        assert torch.equal(student["layer1.0.conv1.weight"], teacher["layer1.0.conv1.weight"])


def test_a_student_that_learnt_is_compared_with_the_untrained_one(tmp_path: Path, teacher_file: Path) -> None:
    schedule = {"lit": {"epochs": 3, "learning_rate": 0.05}, "fine_tune": {"epochs": 1}}
    report = run(tmp_path / "job", teacher_file, method="scratch", schedule=schedule, accept={"max_accuracy_drop": 100})
    before = report["baselines"]["untrained"]
    assert before["accuracy"]["test"] < report["student"]["accuracy"]["test"]
    assert report["selected"]["epoch"] > 0
    assert (report["outcome"], report["accepted"]) == ("better-than-untrained", True)
    [note] = report["notes"]
    assert note.startswith("the data has no test split")


def test_a_student_at_chance_is_not_accepted(tmp_path: Path) -> None:
    dataset = {"builtin": "digits", "train_samples": 40}
    request = {"method": "scratch", "schedule": STILL, "dataset": dataset, "accept": {"max_accuracy_drop": 100}}
    report = run(tmp_path / "job", DIGITS, **request)
    assert report["accuracy_drop"] <= 100
    assert (report["outcome"], report["accepted"]) == ("at-chance", False)
    assert report["notes"][-1].startswith("the student is at chance: its accuracy is")


def test_a_student_at_chance_is_found_without_labels(tmp_path: Path) -> None:
    x = load_digits().images.astype(np.uint8)[:600]
    data = {"x": x, "split": np.where(np.arange(len(x)) < 200, np.arange(len(x)) % 2, 2)}
    student = {"depth": 14, "init": "random"}
    report = run(tmp_path / "job", DIGITS, data, alpha=0, student=student, schedule=STILL)
    assert (report["outcome"], report["accepted"]) == ("at-chance", None)
    assert report["notes"][-1].startswith("the student is at chance: its agreement is")


def test_epoch_0_is_in_the_checkpoint_and_is_measured_once(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def counted(measure: Callable[[Classification], Scores]) -> Callable[[Classification], Scores]:
        def called(task: Classification) -> Scores:
            scores = measure(task)
            measured.append(scores.value)
            return scores

        return called

    monkeypatch.setattr(Classification, "preview", counted(Classification.preview))
    monkeypatch.setattr(Classification, "score", counted(Classification.score))
    schedule = {"lit": {"epochs": 2, "learning_rate": 0.05}, "fine_tune": {"epochs": 0}}
    for name in ("whole", "broken"):
        prepare(tmp_path / name, teacher_file, misleading(), **HARMFUL, schedule=schedule)
    whole = train_in(tmp_path / "whole")
    assert len(measured) == 3
    measured.clear()
    with pytest.raises(Drained):
        run_job(tmp_path / "broken", KeptMessages(), StopsAt(1))
    best = load_checkpoint(tmp_path / "broken" / "checkpoint.pt").best
    assert best is not None
    assert (best.phase, best.epoch, best.score) == (Phase.LIT, 0, measured[0])
    train_in(tmp_path / "broken")
    assert len(measured) == 3
    broken = read_report(tmp_path / "broken")
    assert broken["selected"] == whole["selected"]
    assert broken["baselines"] == whole["baselines"]
    weights = [(tmp_path / name / "output" / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
