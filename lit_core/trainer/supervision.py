"""The trainer's side of its supervision: it writes messages, reads deadlines, and exits when no new deadline comes.

A worker that is frozen or cut off may be unable to end its trainer, so the trainer watches the clock itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from lit_spec.trainer.clock import boottime
from lit_spec.trainer.folder import TrainerExit
from lit_spec.trainer.messages import Deadline, TrainerMessage

FIRST_DEADLINE_SECONDS = 30.0
WATCH_SECONDS = 0.1
PR_SET_PDEATHSIG = 1


class MessageSink(Protocol):
    """Takes the messages for the worker: `MessageWriter`, or a list in tests."""

    def emit(self, message: TrainerMessage) -> None: ...


class StopSignal(Protocol):
    @property
    def stop_requested(self) -> bool: ...


class MessageWriter:
    """Writes messages to standard output. Everything else that prints goes to standard error, the trainer's log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def emit(self, message: TrainerMessage) -> None:
        line = message.as_line()
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()


class NoMessages:
    """Of a rank that is not the first. What it prints goes to standard error as well."""

    def __init__(self) -> None:
        os.dup2(2, 1)

    def emit(self, message: TrainerMessage) -> None:
        """The first rank says it."""


class DeadlineWatch:
    """Ends the process when the deadline passes or the worker has ended. SIGTERM requests a stop."""

    def __init__(self) -> None:
        self._deadline = boottime() + FIRST_DEADLINE_SECONDS
        self.stop_requested = False

    def start(self, *, supervised: bool, reads_deadlines: bool = True) -> None:
        """`reads_deadlines` is False for a rank beside which another one of this machine reads them: both end with
        their launcher."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        if not supervised:
            return
        # Python ignores this signal, and a library that could not write says anything: the worker names the limit.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        die_with_parent()
        _prefer_for_oom_kill()
        if not reads_deadlines:
            return
        threading.Thread(target=self._read_deadlines, daemon=True, name="deadlines").start()
        threading.Thread(target=self._watch, daemon=True, name="watch").start()

    def _on_terminate(self, _number: int, _frame: Any) -> None:
        self.stop_requested = True

    def _read_deadlines(self) -> None:
        for line in sys.stdin:
            self._deadline = Deadline.model_validate_json(line).deadline
        _exit("the worker closed the pipe of the deadlines")

    def _watch(self) -> None:
        while True:
            if boottime() > self._deadline:
                _exit("the deadline passed without a new one, so the worker is frozen or cut off")
            time.sleep(WATCH_SECONDS)


def _exit(reason: str) -> None:
    # Not sys.exit: this is not the main thread, and nothing more may be written.
    try:
        os.write(2, f"trainer ends: {reason}\n".encode())
    finally:
        # Whatever becomes of the log, for example on a full disk.
        os._exit(TrainerExit.DEADLINE)


def _prefer_for_oom_kill() -> None:
    """When memory runs out, the kernel should end this process and not a database or another job."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def prctl(option: int, value: int | bytes) -> None:
    """Linux's prctl(2), for an option with one value."""
    ctypes.CDLL(None, use_errno=True).prctl(option, value)


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends."""
    # If the parent died before this line, it has closed the pipe of the deadlines, which ends the process as well.
    parent = os.getppid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        _exit("the worker was gone before the trainer started")
