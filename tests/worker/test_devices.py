"""Devices are found or told, and the worker never loads torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.devices import cuda_present, worker_devices


def fake_smi(folder: Path, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_told_devices_win() -> None:
    assert worker_devices("cuda, cpu") == ["cpu", "cuda"]


@pytest.mark.parametrize("setting", ["gpu", "", "cpu,tpu"])
def test_unknown_devices_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="cpu, cuda"):
        worker_devices(setting)


def test_a_gpu_is_found_by_the_driver_s_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert cuda_present()
    assert worker_devices(None) == ["cuda"]


def test_a_broken_driver_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert worker_devices(None) == ["cpu"]


def test_the_worker_loads_no_torch() -> None:
    program = "import sys, worker.__main__, worker.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode == 0
