"""The worker's registration: its row in the ledger, which shows that it is alive, what it can run and what it runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence

import structlog
from sqlalchemy.orm import Session

from jobs.database.connection import Database
from jobs.database.outages import first_line, is_outage
from jobs.ledger import workers
from jobs.side_task import SideTask

RENEWAL_SECONDS = 5.0

log = structlog.get_logger()


class Registration:
    """A side task that renews the row of one worker, and removes it at the end."""

    def __init__(
        self,
        database: Database,
        worker_id: str,
        devices: Sequence[str],
        spec_versions: Sequence[int],
        processes: Mapping[str, int] = workers.NO_MORE_THAN_ONE,
        *,
        current_job: Callable[[], str | None],
        paused: Callable[[], bool],
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._devices = list(devices)
        self._spec_versions = list(spec_versions)
        self._processes = dict(processes)
        self._current_job = current_job
        self._paused = paused
        self._task = SideTask("registration", self._keep, longest_pause=RENEWAL_SECONDS)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        self._task.stop(RENEWAL_SECONDS)
        try:
            self._remove()
        except Exception as failure:  # noqa: BLE001 - the row is forgotten after a while
            log.warning("registration not removed", error=repr(failure))

    def _keep(self, stopped: threading.Event) -> None:
        self._unless_outage(self._register)
        while not stopped.wait(RENEWAL_SECONDS):
            self._unless_outage(self._renew)

    def _unless_outage(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as failure:
            if not is_outage(failure):
                raise
            log.warning("registration not renewed: ledger out of reach", error=first_line(failure))

    def _register(self) -> None:
        with self._database.session() as session:
            self._write(session)

    def _write(self, session: Session) -> None:
        host = socket.gethostname()
        workers.register(session, self._worker_id, host, self._devices, self._spec_versions, self._processes)

    def _renew(self) -> None:
        if self._paused():
            return  # a worker that is paused for long must not count as live
        # Registering again costs no more, and restores the row if housekeeping removed it during an outage.
        with self._database.session() as session:
            self._write(session)
            workers.renew(session, self._worker_id, self._current_job())

    def _remove(self) -> None:
        with self._database.session() as session:
            workers.remove(session, self._worker_id)
