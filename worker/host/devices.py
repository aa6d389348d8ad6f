"""Which devices this machine trains on. A separate process asks torch, because the worker never loads it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from jobs.settings import device_names
from lit_spec import Device
from worker.host.checkout import with_checkout

ASK_TORCH = (sys.executable, "-m", "lit_core.trainer.devices")
ASK_SECONDS = 120
NVIDIA_SMI_SECONDS = 20

log = structlog.get_logger()


def worker_devices(setting: str | None, ask_torch: Sequence[str] = ASK_TORCH) -> list[str]:
    """The devices to take jobs for: those in `setting` ("cpu", "cuda" or both, comma-separated), else those detected.

    By default a machine with a GPU takes only `cuda` jobs, so that no long CPU job keeps its GPU idle. If torch can't
    use the GPU, the machine takes `cpu` jobs. Raises ValueError for an unknown name, and for a `cuda` that `setting`
    names but torch can't use.
    """
    if setting is None:
        return [_detected(ask_torch)]
    devices = device_names(setting)
    if (fault := device_fault(devices, ask_torch)) is not None:
        raise ValueError(f"worker devices {setting!r}: {fault}")
    return devices


def processes_by_device(devices: Sequence[str], ask_torch: Sequence[str] = ASK_TORCH) -> dict[str, int]:
    """How many processes of one job this machine runs at most on each device: one on each core or GPU."""
    counts = {Device.CPU.value: len(os.sched_getaffinity(0))}
    if Device.CUDA in devices:
        counts[Device.CUDA.value] = _gpus(ask_torch)
    return {device: counts[device] for device in devices}


def _gpus(ask_torch: Sequence[str]) -> int:
    asked = _ask(ask_torch)
    said = asked.stdout.strip()
    return int(said) if asked.returncode == 0 and said.isdecimal() else 1


def device_fault(devices: Sequence[str], ask_torch: Sequence[str] = ASK_TORCH) -> str | None:
    """Why torch can't use one of the devices; None if it can use all of them."""
    if Device.CUDA not in devices:
        return None
    try:
        asked = _ask(ask_torch)
    except subprocess.TimeoutExpired:
        return f"torch can't use cuda here: it gave no answer within {ASK_SECONDS} s"
    if asked.returncode == 0:
        return None
    *_, last_line = ["", *asked.stderr.strip().splitlines()]
    return f"torch can't use cuda here: {last_line or f'asking it ended with exit code {asked.returncode}'}"


def _ask(ask_torch: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ask_torch,
        env=with_checkout(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ASK_SECONDS,
        check=False,
    )


def _detected(ask_torch: Sequence[str]) -> str:
    if not cuda_present():
        return Device.CPU.value
    fault = device_fault([Device.CUDA.value], ask_torch)
    if fault is None:
        return Device.CUDA.value
    log.warning("there is a GPU, but torch can't use it: this worker takes cpu jobs", reason=fault)
    return Device.CPU.value


def cuda_present() -> bool:
    """Whether the NVIDIA driver shows a GPU. Torch may still be unable to use it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return any(Path("/dev").glob("nvidia[0-9]*"))
    try:
        found = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and "GPU " in found.stdout
