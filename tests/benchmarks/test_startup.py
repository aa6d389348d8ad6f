"""The short form of `make bench-startup`: one job with a forked trainer and one with an executed one."""

from __future__ import annotations

import pytest

from benchmarks.service.startup import COMMANDS, MODES, measure

PARTS = {"claim", "prepare", "starting", "loading", "measuring_teacher", "lit", "fine_tune", "store", "finish"}
WHOLE = {"request to claim", "claim to first step", "last step to succeeded", "download", "whole job"}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_each_part_of_a_job_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = measure(short=True)
    assert set(found["modes"]) == set(MODES) == {"cold", "warm"}
    for parts in found["modes"].values():
        assert {*PARTS, *WHOLE, "serve until ready", "first upload inspected"} <= set(parts)
        seconds = {name: one["median"] for name, one in parts.items()}
        # What lies between the claim and the first step, and a whole job, are made of their parts.
        before = ("claim", "prepare", "starting", "loading", "measuring_teacher")
        assert sum(seconds[name] for name in before) <= seconds["claim to first step"] < seconds["whole job"]
        assert seconds["store"] + seconds["finish"] <= seconds["last step to succeeded"] < seconds["whole job"]
        # model.safetensors, config.json and report.json
        assert seconds["files"] == 3
    assert set(found["commands"]) == set(COMMANDS)
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*PARTS, *WHOLE, *COMMANDS))
