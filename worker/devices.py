"""Which devices this machine trains on, found out without loading torch."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lit_core.spec import Device

KNOWN = (Device.CPU.value, Device.CUDA.value)
NVIDIA_SMI_SECONDS = 20


def worker_devices(setting: str | None) -> list[str]:
    """The devices to take jobs for: those of `setting` ("cpu", "cuda" or both, comma-separated), else those found.

    A machine with a GPU takes `cuda` jobs alone unless told otherwise, so that no long CPU job holds its GPU.
    Raises ValueError for an unknown name.
    """
    if setting is None:
        return [Device.CUDA.value] if cuda_present() else [Device.CPU.value]
    devices = [name.strip() for name in setting.split(",") if name.strip()]
    unknown = [name for name in devices if name not in KNOWN]
    if unknown or not devices:
        raise ValueError(f"worker devices {setting!r}: give one or more of {', '.join(KNOWN)}, separated by commas")
    return sorted(set(devices))


def cuda_present() -> bool:
    """True where the NVIDIA driver shows a GPU; whether torch can use it is the trainer's to find out."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return any(Path("/dev").glob("nvidia[0-9]*"))
    try:
        found = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and "GPU " in found.stdout
