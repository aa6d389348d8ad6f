"""Threads beside a process's main work: housekeeping, registration, heartbeats, notifications."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from jobs.backoff import Backoff

LONGEST_PAUSE_SECONDS = 30.0

log = structlog.get_logger()


class SideTask:
    """A thread that calls `run` until it returns.

    `run` gets an event that is set by `stop`. If it raises, the exception is logged with its traceback, and `run` is
    called again after a pause. The pauses double up to `longest_pause` seconds, and begin anew once `run` has lasted
    longer than that.
    """

    def __init__(
        self, name: str, run: Callable[[threading.Event], None], *, longest_pause: float = LONGEST_PAUSE_SECONDS
    ) -> None:
        self._name = name
        self._run = run
        self._longest_pause = longest_pause
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_running, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stopped.set()

    def stop(self, timeout: float | None = None) -> None:
        """Ask the task to end, and wait for it up to `timeout` seconds. None: as long as it takes."""
        self.ask_to_stop()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    @property
    def over(self) -> bool:
        """Whether `run` has returned, or the task was never started."""
        return not self._thread.is_alive()

    def _keep_running(self) -> None:
        backoff = Backoff(self._longest_pause)
        while True:
            started = time.monotonic()
            try:
                self._run(self._stopped)
            except Exception:
                # What broke the task may break the log as well, for example a full disk.
                with suppress(Exception):
                    log.exception("a side task failed and is started again", task=self._name)
            else:
                return
            if time.monotonic() - started > self._longest_pause:
                backoff.reset()
            if self._stopped.wait(backoff.next()):
                return
