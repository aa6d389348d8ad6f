"""Ends a process when the process that started it dies, by Linux's parent death signal.

The workers ask for it themselves. For programs that don't, `python -m worker.host.parent_death PID COMMAND…` becomes
COMMAND, which is killed when its parent PID dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def stop_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent dies, and end at once if it is dead already.

    `parent` is the process id that the parent passed. The kernel's signal comes when the thread that started this
    process ends.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit(0)


def main() -> NoReturn:
    parent, *command = sys.argv[1:]
    stop_with_parent(int(parent), signal.SIGKILL)
    os.execv(command[0], command)  # noqa: S606 - a list, without a shell


if __name__ == "__main__":
    main()
