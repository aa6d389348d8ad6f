"""Processes that this one starts: each leads a session of its own, and nothing of its group is left at the end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from jobs.private_files import PRIVATE_UMASK


class Child:
    """A child process that leads its own session."""

    def __init__(self, pid: int, executed: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._executed = executed
        self._code: int | None = None

    def exit_code(self) -> int | None:
        """The exit code (negative: the number of a signal), or None while the process runs.

        Until `end` the process stays a zombie, so that its group's id is not used again.
        """
        if self._code is not None:
            return self._code
        status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group. Not after `end`."""
        os.killpg(self.pid, number)

    def end(self) -> int:
        """Kill what is left of the group, and return the exit code."""
        if self._code is None:
            self.signal(signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
            if self._executed is not None:
                # Else it would be waited for again.
                self._executed.returncode = self._code
        return self._code


Check = Callable[[], None]


def no_check() -> None:
    """Nothing keeps a process from being started."""


class Start(Protocol):
    """Starts a command as a child. `stdin`, `stdout` and `stderr` are file descriptors.

    `check` is called before the start and while it waits for something, and may raise. Raises OSError.
    """

    def __call__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        check: Check = no_check,
    ) -> Child: ...


def execute(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    check: Check = no_check,
) -> Child:
    """Start a command as a new process. Raises OSError."""
    check()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        umask=PRIVATE_UMASK,
    )
    return Child(process.pid, process)
