"""Housekeeping: expired leases, lost wake-ups, studies that are due, and leftovers in ledger and storage.

Every API process and every training worker runs a Housekeeper. A PostgreSQL advisory lock decides which of them works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from jobs.broker.queues import queues_for
from jobs.broker.wakeups import SendWakeup
from jobs.database.connection import Database
from jobs.database.models import Job
from jobs.ledger import attempts, idempotency, uploads, workers
from jobs.settings import Settings
from jobs.storage import checkpoints
from jobs.storage.marker import marker_key, storage_fault
from jobs.storage.storage import Storage
from jobs.studies.advance import advance, due
from lit_spec import ErrorType, JobError
from lit_spec.states import JobState

T = TypeVar("T")

LOCK = 0x4C4954  # "LIT"
JOBS_PER_ROUND = 100
LEFTOVER_SECONDS = 86_400.0
"""Age from which a temporary file in storage is a leftover: no write or removal takes this long."""

log = structlog.get_logger()


def reap(session: Session) -> list[str]:
    """Count a failure for every running job whose lease has expired; returns the ids of these jobs."""
    expired = (
        select(Job)
        .where(Job.state == JobState.RUNNING, Job.lease_expires_at < func.clock_timestamp())
        .order_by(Job.lease_expires_at)
        .limit(JOBS_PER_ROUND)
        .with_for_update(skip_locked=True)
    )
    reaped = []
    for job in session.scalars(expired).all():
        error = JobError(
            type=ErrorType.WORKER_LOST,
            detail=f"the worker {job.worker_id} sent no heartbeat for longer than its lease: it crashed, was cut off "
            "or was suspended",
        )
        attempts.lose_locked(session, job, error)
        reaped.append(job.id)
    return reaped


def queues_with_work(session: Session) -> list[str]:
    """The queues in which a wake-up would find something to do."""
    devices = session.scalars(select(Job.device).where(Job.state == JobState.QUEUED).distinct())
    return sorted({queue for device in devices for queue in queues_for(device)})


class Housekeeper:
    """A thread that does the housekeeping every `housekeeping_seconds`, if it gets the lock."""

    def __init__(self, database: Database, send_wakeup: SendWakeup, settings: Settings, storage: Storage) -> None:
        self._database = database
        self._send_wakeup = send_wakeup
        self._seconds = settings.housekeeping_seconds
        self._storage = storage
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(self._seconds + 5)

    def _keep(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self.round()
            except (SQLAlchemyError, OSError) as failure:
                # An outage: the next round may succeed, or another process takes over.
                log.warning("housekeeping failed; trying again in the next round", error=str(failure).splitlines()[0])

    def round(self) -> bool:
        """Do everything once. False if another process is doing it."""
        with self._database.engine.connect() as connection:
            if not connection.scalar(select(func.pg_try_advisory_lock(LOCK))):
                return False
            try:
                connection.commit()
                self._tidy()
            finally:
                connection.rollback()
                connection.execute(select(func.pg_advisory_unlock(LOCK)))
                connection.commit()
        return True

    def _tidy(self) -> None:
        for job_id in self._in_session(reap):
            log.warning("lease expired", job=job_id)
        for study_id in self._in_session(due):
            self._advance(study_id)
        self._in_session(workers.forget_dead)
        self._in_session(idempotency.forget_old_keys)
        for queue in self._in_session(queues_with_work):
            self._send_wakeup(queue)
        self._tidy_storage()

    def _tidy_storage(self) -> None:
        if (wrong := storage_fault(self._storage, self._in_session(marker_key))) is not None:
            # If this folder is not the storage, removals would find no files, but the rows would be deleted.
            log.warning("nothing removed from storage", reason=wrong)
            return
        for prefix in self._in_session(uploads.delete_abandoned):
            self._remove_files(prefix)
        self._remove_spent_checkpoints()
        self._storage.remove_leftovers(LEFTOVER_SECONDS)

    def _remove_spent_checkpoints(self) -> None:
        removed, failures = [], []
        for job_id, keys in self._in_session(checkpoints.settled).items():
            try:
                for key in keys:
                    self._storage.delete(key)
            except OSError as failure:
                failures.append(failure)
            else:
                removed.append(job_id)
        if removed:
            self._in_session(partial(checkpoints.forget, job_ids=removed))
        if failures:
            log.warning("checkpoints of finished jobs not removed yet", jobs=len(failures), error=str(failures[0]))

    def _advance(self, study_id: str) -> None:
        try:
            queues = self._in_session(lambda session: advance(session, study_id))
        except Exception:
            # The other studies and the rest of the housekeeping must continue.
            log.exception("study not advanced", study=study_id)
        else:
            for queue in queues:
                self._send_wakeup(queue)

    def _remove_files(self, prefix: str) -> None:
        # The row is already deleted, so no later round tries again. The other removals must continue.
        try:
            self._storage.delete_prefix(prefix)
        except OSError as failure:
            log.error("files left behind in storage", prefix=prefix, error=str(failure))

    def _in_session(self, action: Callable[[Session], T]) -> T:
        with self._database.session() as session:
            return action(session)
