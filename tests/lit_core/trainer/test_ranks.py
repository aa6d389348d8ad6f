"""A whole job in several processes: its result, its log, and what becomes of it when one of them ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from lit_core.tasks.classification import PREPARATION_SAMPLES
from lit_spec.trainer.clock import boottime
from lit_spec.trainer.folder import TrainerExit
from tests.lit_core.trainer.test_stored_data import write_images
from tests.lit_core.trainer.test_training import job_folder, run, stripes, write_dataset

CHECKOUT = Path(__file__).parents[3]
CHANGES: dict[str, Any] = {"devices": 2, "schedule": {"lit": {"epochs": 1}, "fine_tune": {"epochs": 1}}}
ONE_EPOCH = {"lit": {"epochs": 1}, "fine_tune": {"epochs": 0}}
LONG: dict[str, Any] = {**CHANGES, "schedule": {"lit": {"epochs": 60}, "fine_tune": {"epochs": 1}}}


@contextmanager
def launched(folder: Path, devices: int = 2) -> Iterator[subprocess.Popen[str]]:
    """The launcher in a job folder. It gets deadlines all the time."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    with (folder / "trainer.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lit_core.trainer.launch", str(devices)],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdin
    process.stdin.write(json.dumps({"deadline": boottime() + 240}) + "\n")
    process.stdin.flush()
    # The pipe must not close before the ranks end.
    given_up = threading.Timer(240, process.kill)
    given_up.start()
    try:
        yield process
    finally:
        given_up.cancel()
        process.kill()
        process.communicate()


def ranks_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    return {int(child.environ()["RANK"]): child for child in psutil.Process(process.pid).children()}


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    assert process.stdout
    for line in process.stdout:
        said = json.loads(line)
        if said["type"] == "epoch" and said["epoch"] >= epoch:
            return
    raise AssertionError("the trainer ended before")


def all_of_the_rest(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    assert process.stdout
    found = [json.loads(line) for line in process.stdout]
    process.wait(60)
    return found


def assert_alike(alone: Path, together: Path) -> None:
    """The students of two job folders, but for rounding."""
    one, other = (load_file(folder / "output" / "model.safetensors") for folder in (alone, together))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        error = float((tensor - other[name]).double().norm())
        assert error <= 1e-2 * float(tensor.double().norm()) + 1e-6, f"{name}: {error}"


def _importances(report: dict[str, Any]) -> list[float]:
    return [value for section in report["selection"]["importance"] for value in section if value is not None]


@pytest.mark.long
def test_two_processes_train_the_student_of_one(tmp_path: Path, teacher_file: Path) -> None:
    together = job_folder(tmp_path / "together", teacher_file, **CHANGES)
    with launched(together) as process:
        said = all_of_the_rest(process)
    assert process.returncode == TrainerExit.DONE, (together / "trainer.log").read_text()
    assert [one["type"] for one in said].count("started") == 1
    assert said[-1]["type"] == "finished"
    alone = job_folder(tmp_path / "alone", teacher_file, **{**CHANGES, "devices": 1})
    code, _ = run(alone)
    assert code == TrainerExit.DONE
    assert_alike(alone, together)
    epochs = [json.loads((folder / "output" / "report.json").read_text())["epochs"] for folder in (alone, together)]
    for by_one, by_two in zip(*epochs, strict=True):
        assert by_two["loss"] == pytest.approx(by_one["loss"], rel=1e-3)
    report = json.loads((together / "output" / "report.json").read_text())
    assert report["environment"]["processes"] == "2"
    log = (together / "trainer.log").read_text()
    assert "rank 0:" in log
    assert "rank 1:" in log


SHARDED: dict[str, Any] = {
    **CHANGES,
    "shard_teacher": True,
    "student": {"blocks": [2, 2, 1], "select": "importance"},
    "teacher_precision": "bfloat16",
    "exports": ["hugging_face"],
}


def test_a_sharded_teacher_gives_the_student_and_the_scores_of_a_whole_one(tmp_path: Path, teacher_file: Path) -> None:
    """From images, which the ranks of a worker that keeps no data decode once for all of them."""
    divided = job_folder(tmp_path / "sharded", teacher_file, **SHARDED)
    write_images(divided / "dataset")
    with launched(divided) as process:
        said = all_of_the_rest(process)
    assert process.returncode == TrainerExit.DONE, (divided / "trainer.log").read_text()
    assert said[-1]["type"] == "finished"
    [entry] = (divided / "decoded").iterdir()
    assert (entry / "complete").exists()
    alone = job_folder(tmp_path / "alone", teacher_file, **{**SHARDED, "shard_teacher": False, "devices": 1})
    write_images(alone / "dataset")
    code, _ = run(alone)
    assert code == TrainerExit.DONE
    assert_alike(alone, divided)
    whole, sharded = (json.loads((folder / "output" / "report.json").read_text()) for folder in (alone, divided))
    assert sharded["selection"]["kept"] == whole["selection"]["kept"]
    assert _importances(sharded) == pytest.approx(_importances(whole), rel=1e-3)
    for name in ("accuracy", "agreement", "parameters", "flops", "file_size", "per_class"):
        assert sharded["teacher"][name] == whole["teacher"][name], name
    assert sharded["teacher_accuracy"] == whole["teacher_accuracy"]
    errors = [report["teacher_precision"]["representation_errors"] for report in (sharded, whole)]
    assert all(0 < error < 0.1 for error in errors[0])
    assert errors[0] == pytest.approx(errors[1], rel=0.3)
    assert sharded["teacher"]["latency"] == {}
    assert (sharded["ratios"]["latency_batch_1"], sharded["ratios"]["latency_batch_32"]) == (None, None)
    assert set(sharded["student"]["latency"]) == {"batch_1", "batch_32"}
    assert any("latency was not measured" in note for note in sharded["notes"])
    assert not any("latency was not measured" in note for note in whole["notes"])


def test_beside_a_sharded_teacher_a_part_of_a_large_validation_split_is_looked_at_first(
    tmp_path: Path, teacher_file: Path
) -> None:
    """The first rank compares students with the teacher alone, so all have made its answers to that part before."""
    changes = {**SHARDED, "teacher_precision": None, "exports": [], "schedule": ONE_EPOCH, "alpha": 0}
    data = {"upload": "upl_d", "labels": False}
    folder = job_folder(tmp_path / "job", teacher_file, **changes, dataset=data)
    validation = PREPARATION_SAMPLES + 1
    x, y = stripes(validation + 90)
    write_dataset(folder / "dataset", x=x, y=y, split=[1] * validation + [0] * 60 + [2] * 30)
    with launched(folder) as process:
        said = all_of_the_rest(process)
    assert said[-1]["type"] == "finished", (folder / "trainer.log").read_text()


@pytest.mark.long
def test_a_race_and_a_pruning_beside_a_sharded_teacher_end(tmp_path: Path, teacher_file: Path) -> None:
    """What the first rank measures alone needs no pass of the teacher."""
    changes = {**CHANGES, "shard_teacher": True, "race": True, "then": ["prune:0.3"], "precision": "bfloat16"}
    folder = job_folder(tmp_path / "job", teacher_file, **changes)
    with launched(folder) as process:
        said = all_of_the_rest(process)
    assert said[-1]["type"] == "finished", (folder / "trainer.log").read_text()
    report = json.loads((folder / "output" / "report.json").read_text())
    assert len(report["race"]["racers"]) > 1
    assert report["then"][0]["accuracy"]["test"] > 50


def kill_a_rank(folder: Path) -> None:
    """In the job's first attempt."""
    with launched(folder) as process:
        wait_for_epoch(process, 2)
        ranks = ranks_of(process)
        assert sorted(ranks) == [0, 1]
        ranks[1].kill()
        said = all_of_the_rest(process)
        assert process.returncode not in (0, None)
        assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks.values())
    assert said[-1]["type"] != "finished"
    assert "rank 1 ended with SIGKILL" in (folder / "trainer.log").read_text()
    assert (folder / "checkpoint.pt").exists()


def test_when_a_rank_is_killed_all_end(tmp_path: Path, teacher_file: Path) -> None:
    # Sharded, so that the others wait for the one that is killed also within a pass of the teacher.
    kill_a_rank(job_folder(tmp_path / "job", teacher_file, **{**LONG, "shard_teacher": True}))


@pytest.mark.long
def test_after_a_killed_rank_the_next_attempt_goes_on_from_the_checkpoint(tmp_path: Path, teacher_file: Path) -> None:
    folder = job_folder(tmp_path / "job", teacher_file, **{**LONG, "shard_teacher": True})
    kill_a_rank(folder)
    (folder / "run.json").write_text(json.dumps({"device": "cpu", "threads": 1, "attempt": 2}))
    with launched(folder) as process:
        wait_for_epoch(process, 3)
        process.send_signal(signal.SIGTERM)
        said = all_of_the_rest(process)
    assert said[-1]["type"] == "drained"
    assert process.returncode == TrainerExit.DONE
    resumed = [line for line in (folder / "trainer.log").read_text().splitlines() if "resuming at" in line]
    assert len(resumed) == 1
    assert "epoch=0" not in resumed[0]


def test_a_refusal_is_told_once(tmp_path: Path, teacher_file: Path) -> None:
    folder = job_folder(tmp_path / "job", teacher_file, **{**CHANGES, "teacher_accuracy": 100})
    (folder / "dataset").write_bytes(b"no data set")
    with launched(folder) as process:
        said = all_of_the_rest(process)
    assert process.returncode == TrainerExit.FAILED
    [failed] = [one for one in said if one["type"] == "failed"]
    assert failed["error"]["type"] == "bad-dataset"


def test_when_the_launcher_is_killed_its_ranks_end(tmp_path: Path, teacher_file: Path) -> None:
    folder = job_folder(tmp_path / "job", teacher_file, **LONG)
    with launched(folder) as process:
        wait_for_epoch(process, 1)
        ranks = ranks_of(process)
        process.kill()
        process.wait()
        end = time.monotonic() + 20
        while any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks.values()):
            assert time.monotonic() < end
            time.sleep(0.05)
