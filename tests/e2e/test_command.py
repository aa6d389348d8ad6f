"""`litc` against the running service, as a pipeline would use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import lit_core
from tests.e2e.digits import ROOT, TEACHER


def litc(service_url: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LIT_URL": service_url}
    command = [str(Path(sys.executable).with_name("litc")), *map(str, words)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)


def compress(service_url: str, output: Path, *words: object) -> subprocess.CompletedProcess[str]:
    common = ["--dataset", "digits", "--depth", 8, "--select", "even", "--epochs", 1, "--fine-tune-epochs", 1]
    common += ["--set", "schedule.steps_per_epoch=8", "--set", "exports=[]", "--json"]
    return litc(service_url, "compress", TEACHER, "--output", output, *common, *words)


def test_compress_to_a_model_that_loads(service_url: str, tmp_path: Path) -> None:
    words = ["--max-accuracy-drop", 100, "--name", "from a pipeline"]
    done = compress(service_url, tmp_path / "student", *words)
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert (job["state"], job["accepted"], job["name"]) == ("succeeded", True, "from a pipeline")
    assert lit_core.load(tmp_path / "student").classes == [str(digit) for digit in range(10)]
    listed = litc(service_url, "jobs", "--name", "from a pipeline", "--json")
    assert [entry["id"] for entry in json.loads(listed.stdout)] == [job["id"]]


def test_a_student_that_is_not_accepted_ends_with_3(service_url: str, tmp_path: Path) -> None:
    words = ["--max-accuracy-drop", 0, "--init", "random", "--seed", 1]
    done = compress(service_url, tmp_path / "student", *words)
    job = json.loads(done.stdout)
    assert job["result"]["accuracy_drop"] > 0, "the student must be worse for this test to say anything"
    assert (done.returncode, job["accepted"]) == (3, False)
    # What was trained is there all the same, to look at.
    assert (tmp_path / "student" / "report.json").exists()


def test_a_wrong_depth_ends_with_2_and_a_sentence(service_url: str, tmp_path: Path) -> None:
    done = litc(service_url, "compress", TEACHER, "--output", tmp_path, "--dataset", "digits", "--depth", 15)
    assert done.returncode == 2
    assert "choose one of [8, 14, 20, 26, 32]" in " ".join(done.stderr.split())


def test_inspect_shows_what_each_depth_saves(service_url: str) -> None:
    done = litc(service_url, "inspect", TEACHER)
    assert done.returncode == 0, done.stderr
    assert "316,270 parameters" in " ".join(done.stdout.split())
    assert "3.25" in done.stdout
