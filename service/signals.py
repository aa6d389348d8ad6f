"""The signals that end a command. Apart from the server, so that commands without one do not load it."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn


def exit_on_signals(exit_code: int = 0) -> None:
    """Let SIGTERM and SIGINT end the process through SystemExit, except while uvicorn handles them itself."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        ignore_signals()
        sys.exit(exit_code)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def ignore_signals() -> None:
    """Call this before everything is stopped: a second Ctrl-C must not interrupt the stopping."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
