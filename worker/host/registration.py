"""The worker's row in the ledger: that it lives, what it can do and what it is doing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

import structlog

from jobs.database.connection import Database
from jobs.ledger import workers

SEEN_SECONDS = 5.0

log = structlog.get_logger()


class Presence:
    """Keeps the row of one worker fresh from a thread of its own, and removes it at the end."""

    def __init__(
        self,
        database: Database,
        worker_id: str,
        devices: Sequence[str],
        spec_versions: Sequence[int],
        current_job: Callable[[], str | None],
        resting: Callable[[], bool],
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._devices = list(devices)
        self._spec_versions = list(spec_versions)
        self._current_job = current_job
        self._resting = resting
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(SEEN_SECONDS)
        self._guarded(self._remove)

    def _keep(self) -> None:
        self._guarded(self._register)
        while not self._stopped.wait(SEEN_SECONDS):
            self._guarded(self._see)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as failure:  # noqa: BLE001 - whatever it is, the next round may do better
            log.warning("worker not seen by the ledger", error=repr(failure))

    def _register(self) -> None:
        with self._database.session() as session:
            workers.register(session, self._worker_id, socket.gethostname(), self._devices, self._spec_versions)

    def _see(self) -> None:
        if self._resting():
            return  # one that rests for long is of no use to a job that waits, and is ill
        # Registering again costs no more, and brings the row back if housekeeping took it during an outage.
        with self._database.session() as session:
            workers.register(session, self._worker_id, socket.gethostname(), self._devices, self._spec_versions)
            workers.seen(session, self._worker_id, self._current_job())

    def _remove(self) -> None:
        with self._database.session() as session:
            workers.remove(session, self._worker_id)
