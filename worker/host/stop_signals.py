"""Waiting for SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import time

LOOK_SECONDS = 0.2


class StopSignals:
    """Notices SIGTERM and SIGINT from now on. To be made in the main thread.

    It takes no lock, unlike an event: a second signal could interrupt the handler while it holds the lock, and then
    wait for it for ever.
    """

    def __init__(self) -> None:
        self._stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def stop(self) -> None:
        """As if a signal had come. Any thread may call this."""
        self._stopping = True

    def wait(self) -> None:
        """Until the first signal."""
        while not self._stopping:
            time.sleep(LOOK_SECONDS)
