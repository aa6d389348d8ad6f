"""Writes of an attempt to the ledger, which are retried during an outage."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from jobs.database.connection import Database
from jobs.database.outages import first_line, is_outage
from worker.training.lease import RETRY_SECONDS, InterruptReason, Lease

T = TypeVar("T")


class LedgerWrites:
    """Each action is one transaction. Its exceptions that are no outages are raised, such as Stale."""

    def __init__(self, database: Database, lease: Lease, log: Any) -> None:
        self._database = database
        self._lease = lease
        self._log = log

    def once(self, action: Callable[[Session], T]) -> T:
        with self._database.session() as session:
            return action(session)

    def until_lost(self, action: Callable[[Session], T]) -> T:
        """During an outage, retry until the lease is lost. Raises Interrupted then."""
        while True:
            self._lease.check_not_lost()
            try:
                return self.once(action)
            except Exception as failure:
                if not is_outage(failure):
                    raise
                self._pause(failure)

    def finish(self, action: Callable[[Session], None]) -> None:
        """Finish the attempt, or this worker's part of it: no heartbeat follows.

        During an outage, retry also beyond the lease, because the fence decides whether it counts. Raises Interrupted
        when another attempt has the job, or when the worker must stop and the lease is lost.
        """
        while True:
            try:
                with self._lease.closing():
                    self.once(action)
                    self._lease.closed()
                    return
            except Exception as failure:
                if not is_outage(failure):
                    raise
                self._pause(failure)
            if self._lease.reason is InterruptReason.STALE or self._lease.draining:
                self._lease.check_not_lost()

    def _pause(self, outage: Exception) -> None:
        self._log.warning("ledger out of reach; trying again", error=first_line(outage))
        time.sleep(RETRY_SECONDS)
