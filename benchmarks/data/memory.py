"""The memory of a command and of the processes that it starts, while it runs."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SECONDS = 0.05
"""Between two looks."""
KIB = 1024


@dataclass(frozen=True)
class Peaks:
    """In bytes."""

    anonymous: int
    """What the processes have together beyond files: this can't be taken back by the kernel."""
    resident: int
    """With the pages of files, such as libraries. Pages that processes share count for each."""
    alone: int
    """Anonymous memory of the first process."""


def run_measured(command: Sequence[str], folder: Path) -> tuple[str, Peaks]:
    """The command's standard output, and the peaks of its memory. Raises CalledProcessError."""
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    found: list[tuple[int, int, int]] = [(0, 0, 0)]
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(SECONDS):
            with suppress(psutil.NoSuchProcess):
                found.append(_now(psutil.Process(child.pid)))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        output = child.communicate()[0]
    finally:
        child.kill()
        ended.set()
        watch.join()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return output, Peaks(*map(max, zip(*found, strict=True)))


def _now(process: psutil.Process) -> tuple[int, int, int]:
    """Anonymous and resident bytes of all processes, and anonymous ones of the first."""
    anonymous = resident = alone = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(OSError):
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{one.pid}/status").read_text().splitlines() if ":" in line
            )
            anonymous += int(status.get("RssAnon", "0").split()[0]) * KIB
            resident += int(status.get("VmRSS", "0").split()[0]) * KIB
            alone = anonymous if one is process else alone
    return anonymous, resident, alone
