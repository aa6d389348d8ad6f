"""The recipe for pretrained networks in a job: recover, the race, and a break after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_core.trainer.job import run_job
from lit_core.training.checkpoint import load_checkpoint
from lit_core.training.loop import Drained
from tests.lit_core.trainer.test_methods import StopsAt, prepare, read_report, train_in
from tests.lit_core.trainer.test_training import KeptMessages

FEW: dict[str, Any] = {
    "preset": "few",
    "student": {"blocks": [2, 2, 2], "select": "recover"},
    "schedule": {"steps_per_epoch": 4, "lit": {"epochs": 3}, "fine_tune": {"epochs": 1}},
}


@pytest.mark.usefixtures("short_races")
@pytest.mark.parametrize("rate", [pytest.param(2e-4, marks=pytest.mark.long), 1.0], ids=["as asked", "cut"])
def test_a_job_that_is_broken_off_after_its_race_ends_with_the_same_bits(
    tmp_path: Path, teacher_file: Path, rate: float
) -> None:
    request = {**FEW, "schedule": {**FEW["schedule"], "lit": {"epochs": 3, "learning_rate": rate}}}
    for name in ("whole", "broken"):
        prepare(tmp_path / name, teacher_file, **request)
    whole, broken = train_in(tmp_path / "whole"), tmp_path / "broken"
    looks, drains = len(whole["race"]["racers"]) + 2, 0
    with pytest.raises(Drained):
        run_job(broken, KeptMessages(), StopsAt(2))
    assert not (broken / "checkpoint.pt").exists(), "a race that is broken off begins again"
    while drains < 20:
        try:
            run_job(broken, KeptMessages(), StopsAt(looks))
            break
        except Drained:
            drains += 1
            looks = 3
            assert load_checkpoint(broken / "checkpoint.pt").race is not None
    found = read_report(broken)
    assert len(found["resumes"]) == drains >= 3
    assert all(resume["bit_identical"] for resume in found["resumes"])
    assert found["race"] == whole["race"]
    assert (found["race"]["learning_rate"] < rate) == (rate == 1.0)
    assert found["selection"] == whole["selection"]
    assert found["baselines"] == whole["baselines"]
    assert found["baselines"]["repaired"]["agreement"]["val"] > 0
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "broken")]
    assert all(torch.equal(tensor, states[1].student[name]) for name, tensor in states[0].student.items())
    timeless = [[{**epoch, "seconds": 0} for epoch in report["epochs"]] for report in (whole, found)]
    assert timeless[0] == timeless[1]
