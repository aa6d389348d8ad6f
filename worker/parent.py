"""Ending with the process that started this one, which `litc serve` and `litc worker` ask of their children."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def stop_with_parent(parent: int) -> None:
    """Ask the kernel for a SIGTERM when the parent dies, and end if it has died already.

    `parent` is the parent's process id as it gave it: by now another process may stand in its place.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)
