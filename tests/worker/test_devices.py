"""Devices are found or told, and the worker never loads torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from worker.host import devices
from worker.host.devices import cuda_present, processes_by_device, worker_devices


def fake_smi(folder: Path, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def torch_says(program: str) -> list[str]:
    """A stand-in for the process that asks torch, for machines that have or lack a GPU."""
    return [sys.executable, "-c", program]


USABLE = torch_says("")
TOO_OLD = torch_says("import sys; print('UserWarning: …', file=sys.stderr); sys.exit('the driver is too old')")


def test_told_devices_win() -> None:
    assert worker_devices("cuda, cpu", USABLE) == ["cpu", "cuda"]
    assert worker_devices("cpu", TOO_OLD) == ["cpu"]


def test_told_devices_must_be_usable() -> None:
    with pytest.raises(ValueError, match="'cuda': torch can't use cuda here: the driver is too old"):
        worker_devices("cuda", TOO_OLD)
    with pytest.raises(ValueError, match="exit code -11"):
        worker_devices("cuda", torch_says("import os; os.kill(os.getpid(), 11)"))


def test_torch_that_gives_no_answer_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "ASK_SECONDS", 0.1)
    with pytest.raises(ValueError, match="no answer"):
        worker_devices("cuda", torch_says("import time; time.sleep(60)"))


@pytest.mark.parametrize("setting", ["gpu", "", "cpu,tpu"])
def test_unknown_devices_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="cpu, cuda"):
        worker_devices(setting)


def test_a_gpu_is_found_by_the_driver_s_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert cuda_present()
    assert worker_devices(None, USABLE) == ["cuda"]


def test_a_gpu_that_torch_cannot_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    # Torch itself, of whichever wheel, with the GPU hidden from it.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with capture_logs() as logs:
        assert worker_devices(None) == ["cpu"]
    [warning] = logs
    assert warning["log_level"] == "warning"
    assert "torch can't use cuda here: " in warning["reason"]


def test_a_machine_runs_a_process_on_each_core_or_gpu() -> None:
    cores = len(os.sched_getaffinity(0))
    assert processes_by_device(["cpu"], TOO_OLD) == {"cpu": cores}
    assert processes_by_device(["cpu", "cuda"], torch_says("print(8)")) == {"cpu": cores, "cuda": 8}
    assert processes_by_device(["cuda"], TOO_OLD) == {"cuda": 1}


def test_a_broken_driver_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert worker_devices(None) == ["cpu"]


def test_the_worker_loads_no_torch() -> None:
    program = "import sys, service.worker_process, service.commands.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode == 0
