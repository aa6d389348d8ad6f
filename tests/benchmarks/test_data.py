"""What `make bench-data` measures: the same images in every arm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.data.arms import Arm
from benchmarks.data.run import main

SIZES = {"images": 40, "side": 64, "size": 48, "batch": 16, "workers": 1, "rounds": 1}


def measured(capsys: pytest.CaptureFixture[str], **sizes: int) -> dict[str, Any]:
    """What the command prints. `compare` itself fails where one has other pixels or images."""
    main([f"--{name.replace('_', '-')}={value}" for name, value in (SIZES | sizes).items()])
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith('{"bench": "data"')
    found: dict[str, Any] = json.loads(last)
    assert set(found["arms"]) == {arm.value for arm in Arm}
    assert found["machine"]["cores"] > 0
    for arm in found["arms"].values():
        assert arm["later"]["median"] > 0
        assert 0 < arm["anonymous_mib"] <= arm["resident_mib"]
    return found


def test_the_arms_have_the_same_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    assert "train_run" not in measured(capsys, memory_images=0, train_images=0)


@pytest.mark.long
def test_the_short_form_measures_memory_and_a_job_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, memory_images=60, train_images=80, baseline_images=40)
    assert found["memory"]["images"] == 60
    assert found["memory"]["data_mib"] == 60 * 48 * 48 * 3 // (1 << 20)
    trained = found["train_run"]
    assert trained["images"] == 80
    assert 0 < trained["decode_seconds"] < trained["first_step_seconds"]
    assert trained["before_data_mib"] < trained["anonymous_mib"]
    assert found["train_baseline"]["images"] == 40
    assert found["above_networks_mib"] == trained["anonymous_mib"] - found["train_baseline"]["anonymous_mib"]
