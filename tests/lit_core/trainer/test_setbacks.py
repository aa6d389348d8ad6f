"""An unstable training goes back to its last good state, and goes on at a lower learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_core.trainer.job import run_job
from lit_core.training.checkpoint import BestEpoch, load_checkpoint
from lit_core.training.loop import Drained
from lit_core.training.setbacks import has_risen
from lit_core.training.task import Scores
from lit_spec import Phase
from tests.lit_core.trainer.test_methods import StopsAt, prepare, read_report, run
from tests.lit_core.trainer.test_training import KeptMessages

DIGITS = Path(__file__).parents[3] / "examples/digits/teacher.safetensors"
UNSTABLE: dict[str, Any] = {
    "dataset": {"builtin": "digits", "train_samples": 200},
    "student": {"depth": 32, "select": "even"},
    "method": "kd",
    "schedule": {"lit": {"epochs": 4, "learning_rate": 1.5}, "fine_tune": {"epochs": 1, "learning_rate": 0.01}},
}
"""At this rate the loss rises within the first epoch, but stays finite."""


@pytest.fixture(scope="module")
def unstable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that was not interrupted."""
    folder = tmp_path_factory.mktemp("unstable") / "job"
    run(folder, DIGITS, **UNSTABLE)
    return folder


def test_a_loss_that_rises_lowers_the_rate_and_the_training_goes_on(unstable: Path) -> None:
    report = read_report(unstable)
    first, *_ = setbacks = report["setbacks"]
    assert (first["phase"], first["epoch"], first["back_to"]) == ("lit", 1, 0)
    assert first["loss"] > 2 * first["loss_before"]
    assert (first["learning_rate_before"], first["learning_rate"]) == pytest.approx((1.5, 0.15))
    done = [(epoch["phase"], epoch["epoch"]) for epoch in report["epochs"]]
    assert done == [("lit", 1), ("lit", 2), ("lit", 3), ("lit", 4), ("fine_tune", 1)]
    rates = [epoch["learning_rate"] for epoch in report["epochs"]]
    assert max(rates[:4]) <= 0.15
    assert rates[4] < 0.01, "fine-tuning has its own rate, which was not lowered"
    assert report["epochs"][-1]["student_accuracy"] > 50
    notes = [
        note for note in report["notes"] if note.endswith("went back to epoch 0 and lowered the learning rate to 0.15")
    ]
    assert len(notes) == 1
    assert len(setbacks) <= 3


def test_a_healthy_training_has_no_setbacks(tmp_path: Path, teacher_file: Path) -> None:
    schedule = {"lit": {"epochs": 2, "learning_rate": 0.1}, "fine_tune": {"epochs": 1}}
    for method in ("lit", "kd", "scratch", "prune"):
        report = run(tmp_path / method, teacher_file, method=method, schedule=schedule)
        assert report["setbacks"] == [], method


def test_a_loss_that_is_not_finite_lowers_the_rate_too(tmp_path: Path, teacher_file: Path) -> None:
    lit = {"epochs": 3, "learning_rate": 90, "frozen": [], "schedule": {"kind": "constant"}}
    request = {"schedule": {"lit": lit, "fine_tune": {"epochs": 0}}, "tau": 1000, "alpha": 0}
    report = run(tmp_path / "job", teacher_file, **request)
    assert report["setbacks"][0]["loss"] is None
    assert len(report["epochs"]) == 3
    assert all(math.isfinite(value) for epoch in report["epochs"] for value in epoch.values() if value != "lit")


@pytest.mark.parametrize("looks", [9, *(pytest.param(looks, marks=pytest.mark.long) for looks in (5, 13))])
def test_an_interrupted_training_with_setbacks_ends_with_the_same_bits(
    tmp_path: Path, unstable: Path, looks: int
) -> None:
    """An epoch has 7 steps, and the loss is watched between two of them: the first setback comes after 8 looks."""
    prepare(tmp_path / "broken", DIGITS, **UNSTABLE)
    whole = read_report(unstable)
    interrupted = 0
    while True:
        try:
            run_job(tmp_path / "broken", KeptMessages(), StopsAt(looks))
        except Drained:
            interrupted += 1
        else:
            break
    broken = read_report(tmp_path / "broken")
    assert interrupted >= 2
    assert broken["setbacks"] == whole["setbacks"] != []
    weights = [load_checkpoint(folder / "checkpoint.pt").student for folder in (unstable, tmp_path / "broken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    timeless = [[{**epoch, "seconds": 0} for epoch in report["epochs"]] for report in (whole, broken)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(
    ("loss", "score", "risen"),
    [
        (1.9, 1.0, False),
        (2.1, 1.0, True),
        (50.0, 60.0, False),  # the score says that all is well
        (50.0, None, True),  # nothing was measured
        (4.0, None, False),
    ],
)
def test_a_rise_counts_if_the_score_has_collapsed_or_if_it_is_very_large(
    loss: float, score: float | None, risen: bool
) -> None:
    scores = Scores(0.0, {}) if score is None else Scores(score, {"accuracy": score})
    best = BestEpoch(Phase.LIT, 0, 0.0 if score is None else 90.0, {})
    assert has_risen(loss, 1.0, scores, best) is risen
