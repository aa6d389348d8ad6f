"""Ending with the process that started this one, which `litc serve` and `litc worker` ask of their children.

`python -m worker.host.parent PID COMMAND…` becomes COMMAND, killed when its parent PID ends. It is for programs that do
not ask for that themselves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def stop_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent dies, and end if it has died already.

    `parent` is the parent's process id as it gave it: by now another process may stand in its place.
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
