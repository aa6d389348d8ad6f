"""The signals that end a command. Apart from the server, so that commands without one do not load it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGAIN_SECONDS = 0.1


class _Ended(SystemExit):
    """Raised by a signal."""


def exit_on_signals(exit_code: int = 0) -> None:
    """Let SIGTERM and SIGINT end the process through SystemExit, except while uvicorn handles them itself."""
    show = sys.unraisablehook

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        ignore_signals()
        raise _Ended(exit_code)

    def end_later(dropped: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised while it finalizes an object: the signal comes again."""
        if not isinstance(dropped.exc_value, _Ended):
            show(dropped)
            return
        _handle(end)
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()

    sys.unraisablehook = end_later
    _handle(end)


def ignore_signals() -> None:
    """Call this before everything is stopped: a second Ctrl-C must not interrupt the stopping."""
    _handle(signal.SIG_IGN)


def _handle(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)
