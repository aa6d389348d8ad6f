"""What `make bench-data` measures: the same images in every arm."""

from __future__ import annotations

import json

import pytest

from benchmarks.data.arms import Arm
from benchmarks.data.run import main


def test_the_short_form_compares_the_same_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    """`compare` itself fails where an arm has other pixels or other images."""
    sizes = {"images": 40, "memory-images": 60, "train-images": 80, "baseline-images": 40, "side": 64, "size": 48}
    sizes |= {"batch": 16, "workers": 1, "rounds": 1}
    main([f"--{name}={value}" for name, value in sizes.items()])
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith('{"bench": "data"')
    found = json.loads(last)
    assert set(found["arms"]) == {arm.value for arm in Arm}
    assert found["machine"]["cores"] > 0
    for arm in found["arms"].values():
        assert arm["later"]["median"] > 0
        assert 0 < arm["anonymous_mib"] <= arm["resident_mib"]
    assert found["memory"]["images"] == 60
    assert found["memory"]["data_mib"] == 60 * 48 * 48 * 3 // (1 << 20)
    trained = found["train_run"]
    assert trained["images"] == 80
    assert 0 < trained["decode_seconds"] < trained["first_step_seconds"]
    assert trained["before_data_mib"] < trained["anonymous_mib"]
    assert found["train_baseline"]["images"] == 40
    assert found["above_networks_mib"] == trained["anonymous_mib"] - found["train_baseline"]["anonymous_mib"]
