"""The short form of `make bench-train`: every arm trains, and the exact one has the naive step's gradients."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.train.arms import Arm, Loss
from benchmarks.train.gradients import gradient_error
from benchmarks.train.process import Cell
from benchmarks.train.run import main
from benchmarks.train.workloads import workloads
from lit_spec import Precision


def test_the_short_form_compares_all_arms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--short", "--threads", "1"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert next(iter(last)) == "bench"
    assert {(one["arm"], one["loss"]) for one in last["results"]} == {
        (arm, loss) for arm in Arm for loss in Loss if arm != Arm.FEW_CACHED or loss == Loss.BETA_0
    }
    for one in last["results"]:
        assert one["least"] <= one["per_second"] <= one["most"]
        assert (one["gradient_error"] is None) == (one["arm"] not in {Arm.EXACT, Arm.BF16_TEACHER})
        if one["arm"] == Arm.EXACT:
            assert one["gradient_error"] < 1e-4
        if one["arm"] == Arm.BF16_TEACHER:
            assert 1e-4 < one["gradient_error"] < 0.3


def test_a_deep_teachers_representations_have_the_size_of_a_trained_ones() -> None:
    """Else the comparison of gradients would see the last section's loss alone."""
    deep = next(one for one in workloads(torch.device("cpu")) if one.name == "resnet110-20")
    networks = deep.networks(torch.device("cpu"))
    with torch.no_grad():
        sizes = [float(one.square().mean().sqrt()) for one in networks.teacher.trace(networks.inputs[:4]).outputs]
    assert all(0.1 < size < 100 for size in sizes), sizes


def test_another_loss_has_other_gradients() -> None:
    cell = Cell("resnet20-8", 8, Loss.KD, Precision.FLOAT32, "cpu", 1, short=True)
    assert gradient_error(cell, Arm.FLOOR) > 0.1


def test_a_name_that_is_unknown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--short", "--only", "resnet9"])
    assert "resnet9" in capsys.readouterr().err
