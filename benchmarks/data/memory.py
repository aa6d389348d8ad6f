"""The memory of a command and of the processes that it starts, while it runs."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
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


class MemoryWatch:
    """Looks at the memory of a process and of those that it has started, until the watch is closed."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self._found: list[tuple[int, int, int]] = [(0, 0, 0)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    @property
    def peaks(self) -> Peaks:
        """So far."""
        return Peaks(*map(max, zip(*self._found, strict=True)))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SECONDS):
            with suppress(psutil.NoSuchProcess):
                self._found.append(_now(psutil.Process(self._child.pid)))


@contextmanager
def watched(command: Sequence[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], MemoryWatch]]:
    """The command, whose standard output is a pipe. It is killed at the end, if it still runs."""
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    with closing(MemoryWatch(child)) as watch:
        try:
            yield child, watch
        finally:
            child.kill()


def run_measured(command: Sequence[str], folder: Path) -> tuple[str, Peaks]:
    """The command's standard output, and the peaks of its memory. Raises CalledProcessError."""
    with watched(command, folder) as (child, watch):
        output = child.communicate()[0]
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return output, watch.peaks


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
