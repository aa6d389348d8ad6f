"""The trainer's side of its supervisor: events out, deadlines in, and an end by itself when they stop coming.

A supervisor that is frozen or cut off cannot be relied on to end its trainer, so the trainer watches the clock.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

EXIT_DEADLINE = 75
FIRST_DEADLINE_SECONDS = 30.0
WATCH_SECONDS = 0.1
PR_SET_PDEATHSIG = 1


def now() -> float:
    """Seconds on the clock that supervisor and trainer share. It goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Events:
    """JSON lines on what was standard output. Whatever else prints goes to standard error, the trainer's log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def emit(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, allow_nan=False)
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()


class Watch:
    """Ends the process when the deadline passes or the supervisor is gone."""

    def __init__(self) -> None:
        self._deadline = now() + FIRST_DEADLINE_SECONDS
        self.stop_requested = False

    def start(self, *, supervised: bool) -> None:
        signal.signal(signal.SIGTERM, self._on_terminate)
        if not supervised:
            return
        _die_with_parent()
        be_first_to_go()
        threading.Thread(target=self._read_deadlines, daemon=True, name="deadlines").start()
        threading.Thread(target=self._watch, daemon=True, name="watch").start()

    def _on_terminate(self, _number: int, _frame: Any) -> None:
        self.stop_requested = True

    def _read_deadlines(self) -> None:
        for line in sys.stdin:
            self._deadline = float(json.loads(line)["deadline"])
        _end("the supervisor closed the deadlines' pipe")

    def _watch(self) -> None:
        while True:
            if now() > self._deadline:
                _end("the deadline passed without a new one: the supervisor is frozen or cut off")
            time.sleep(WATCH_SECONDS)


def _end(reason: str) -> None:
    # Not sys.exit: this is no main thread, and nothing may be written any more.
    os.write(2, f"trainer ends: {reason}\n".encode())
    os._exit(EXIT_DEADLINE)


def be_first_to_go() -> None:
    """Where memory runs out, the kernel is to end this process and not a database or another's work."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def _die_with_parent() -> None:
    # A parent that was gone before this line has closed the deadlines' pipe, which ends the process as well.
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        _end("the supervisor was gone before the trainer started")
