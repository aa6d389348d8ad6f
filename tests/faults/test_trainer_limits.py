"""Real trainers that want more than their worker allows fail at their first attempt, and say which limit they hit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.settings import MOST_BYTES, MOST_SECONDS, Settings
from tests.faults.machines import Machines
from tests.worker.bench import Bench, child
from worker.host.children import execute
from worker.training.launching import TRAINER
from worker.training.limits import FREE_BYTES, TIMES_INPUTS, LimitWatch, TrainerLimits, disk_usage, memory_usage
from worker.training.trainer_process import Trainer

MIB = 1 << 20
REQUEST: dict[str, Any] = {
    "student": {"depth": 8, "select": "even"},
    "schedule": {"lit": {"epochs": 50}, "fine_tune": {"epochs": 50}, "batch_size": 256},
    "exports": [],
}


def failed_under(bench: Bench, command: list[str], teacher: str | None = None, **limits: int) -> dict[str, Any]:
    """The error of a job whose trainer runs under these limits."""
    bench.settings = bench.settings.model_copy(update=limits)
    job_id = bench.job(teacher=teacher, **REQUEST)
    with bench.supervisor(command) as supervisor:
        assert supervisor.work() == 1
    job = bench.row(job_id)
    assert (job.state, job.attempt, job.failures) == ("failed", 1, 0), job.error
    assert job.error is not None
    return job.error


@pytest.mark.parametrize(
    ("limit", "value", "type"),
    [
        ("trainer_memory_bytes", 60 * MIB, "memory-limit"),
        ("trainer_cpu_seconds", 1, "cpu-limit"),
        ("trainer_file_bytes", 20_000, "file-size-limit"),
        ("trainer_disk_bytes", 20_000, "disk-limit"),
    ],
)
def test_a_training_that_hits_a_limit_says_which(
    bench: Bench, machines: Machines, limit: str, value: int, type: str
) -> None:
    error = failed_under(bench, list(TRAINER), machines.teacher(), **{limit: value})
    assert error["type"] == type, error
    assert f"LIT_{limit.upper()}" in error["detail"]
    if limit != "trainer_disk_bytes":  # that one counts from what the job folder had at first
        assert f" {value} " in error["detail"]


def test_memory_that_the_kernel_refuses_is_said_to_be_a_limit(bench: Bench) -> None:
    error = failed_under(bench, child("allocate"), trainer_data_bytes=300 * MIB)
    assert error["type"] == "memory-limit", error
    assert "LIT_TRAINER_DATA_BYTES" in error["detail"]


def test_memory_of_the_trainers_own_children_counts(bench: Bench) -> None:
    error = failed_under(bench, child("allocate_in_child"), trainer_memory_bytes=200 * MIB)
    assert error["type"] == "memory-limit", error


def test_a_job_within_its_limits_is_not_disturbed(bench: Bench) -> None:
    limits = {"trainer_memory_bytes": 500 * MIB, "trainer_cpu_seconds": 60, "trainer_disk_bytes": MIB}
    bench.settings = bench.settings.model_copy(update=limits)
    job_id = bench.job()
    bench.work("succeed")
    assert bench.row(job_id).state == "succeeded", bench.row(job_id).error


def test_the_highest_limits_that_the_settings_take_can_be_set(bench: Bench) -> None:
    names = ("memory_bytes", "data_bytes", "file_bytes", "disk_bytes")
    limits = {f"trainer_{name}": MOST_BYTES for name in names} | {"trainer_cpu_seconds": MOST_SECONDS}
    assert Settings(**limits).trainer_file_bytes == MOST_BYTES  # type: ignore[arg-type]
    bench.settings = bench.settings.model_copy(update=limits)
    job_id = bench.job()
    bench.work("succeed")
    assert bench.row(job_id).state == "succeeded", bench.row(job_id).error


def test_mapped_files_are_not_memory_and_what_ended_needs_none() -> None:
    code = "import os; b = bytearray(os.urandom(100 << 20)); print(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 100 * MIB < memory_usage(process.pid) < 200 * MIB
        process.communicate(b"\n")
    assert memory_usage(process.pid) == 0


def test_the_usage_of_a_folder_is_what_its_files_take(tmp_path: Any) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(os.urandom(5 * MIB))
    (tmp_path / "link").symlink_to(sys.executable)
    assert 5 * MIB <= disk_usage(tmp_path) < 6 * MIB


def test_inputs_count_in_full_where_blocks_are_counted_late(tmp_path: Path) -> None:
    with (tmp_path / "dataset").open("wb") as file:
        file.truncate(5 * MIB)  # no blocks yet
    assert disk_usage(tmp_path) < MIB
    limits = TrainerLimits.of(Settings(), tmp_path, "cpu")
    assert limits.disk_bytes == FREE_BYTES + (TIMES_INPUTS + 1) * 5 * MIB


def test_a_folder_that_takes_long_to_measure_is_measured_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, looks = [1000.0], []

    def measure(_: Path) -> int:
        clock[0] += 2.0
        looks.append(clock[0])
        return 0

    monkeypatch.setattr("worker.training.limits.monotonic", lambda: clock[0])
    monkeypatch.setattr("worker.training.limits.disk_usage", measure)
    limits = TrainerLimits(memory_bytes=None, data_bytes=None, cpu_seconds=None, file_bytes=MIB, disk_bytes=MIB)
    watch = LimitWatch(os.getpid(), lambda: None, limits, tmp_path)
    for _ in range(110):
        assert watch._exceeded() is None
        clock[0] += 0.2
    assert looks == [1002.0, pytest.approx(1024.0, abs=0.2)]


def test_a_trainer_whose_limits_cannot_be_set_is_not_left_running(tmp_path: Path) -> None:
    too_much = TrainerLimits(memory_bytes=None, data_bytes=None, cpu_seconds=None, file_bytes=1 << 64, disk_bytes=MIB)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OverflowError):
        Trainer(execute, ["sleep", "600"], tmp_path, dict(os.environ), too_much)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert [child for child in psutil.Process().children() if child.cwd() == str(tmp_path)] == []
