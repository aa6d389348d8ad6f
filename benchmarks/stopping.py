"""An asked-for end of a benchmark takes the servers and processes that it has started with it."""

from __future__ import annotations

import signal
import sys


def exit_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that what the benchmark has opened is closed. A second one changes nothing."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)
