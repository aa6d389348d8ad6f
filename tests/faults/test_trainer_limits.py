"""Real trainers that want more than their worker allows fail at their first attempt, and say which limit they hit."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from tests.faults.machines import Machines
from tests.worker.bench import Bench, child
from worker.training.limits import disk_usage, memory_usage
from worker.training.supervisor import TRAINER

MIB = 1 << 20
REQUEST: dict[str, Any] = {
    "student": {"depth": 8},
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
        ("trainer_cpu_seconds", 2, "cpu-limit"),
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
