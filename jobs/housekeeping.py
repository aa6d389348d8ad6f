"""Housekeeping: expired leases, lost wake-ups, studies that are due, and leftovers in ledger and storage.

Every API process and every training worker runs a Housekeeper. PostgreSQL's advisory locks decide which of them works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import Connection, exists, func, literal_column, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from jobs.broker.queues import queues_for
from jobs.broker.wakeups import SendWakeup
from jobs.database.connection import Database, allow_idle
from jobs.database.models import Job
from jobs.database.outages import first_line, is_down, is_outage
from jobs.ledger import attempts, audit, idempotency, retention, seats, uploads, workers
from jobs.settings import Settings
from jobs.side_task import SideTask
from jobs.storage import checkpoints, removals
from jobs.storage.marker import marker_key, storage_fault
from jobs.storage.storage import Storage
from jobs.studies.advance import advance, due
from jobs.webhooks import deliveries, limits
from lit_spec import Device, ErrorType, JobError
from lit_spec.states import JobState
from lit_spec.trainer.clock import boottime

T = TypeVar("T")

LEDGER_LOCK = 0x4C4954  # "LIT"
STORAGE_LOCK = LEDGER_LOCK + 1
JOBS_PER_ROUND = 100
STORAGE_LOCK_SECONDS = 3600.0
"""For longer than this no round in storage keeps the others away. Storage may be slow, and nobody waits for it."""
EXPIRY_SECONDS = 60.0
"""A process looks no more often than this for what has expired."""
LEFTOVER_SECONDS = 86_400.0
"""Age from which a temporary file in storage is a leftover: no write or removal takes this long."""

log = structlog.get_logger()


def reap(session: Session, server_up_for: float) -> list[str]:
    """Count a failure for every running job whose lease, or that of one of its seats, has expired; returns the ids of
    these jobs.

    Does nothing until the database server has been up for `server_up_for` seconds.
    """
    up_for = func.clock_timestamp() - func.pg_postmaster_start_time()
    # A start in the future says only that the clock was set back.
    if session.scalar(select(up_for.between(timedelta(0), timedelta(seconds=server_up_for)))):
        return []
    expired = (
        select(Job)
        .where(Job.state == JobState.RUNNING, or_(Job.lease_expires_at < func.statement_timestamp(), seats.expired()))
        .order_by(Job.lease_expires_at)
        .limit(JOBS_PER_ROUND)
        .with_for_update(skip_locked=True)
    )
    reaped = []
    for job in session.scalars(expired).all():
        error = JobError(
            type=ErrorType.WORKER_LOST,
            detail=f"{_who(job)} sent no heartbeat for longer than its lease: it crashed, was cut off or was suspended",
        )
        attempts.lose_locked(session, job, error)
        reaped.append(job.id)
    return reaped


def _who(job: Job) -> str:
    return f"the worker {job.worker_id}" + (" or one that had joined it" if job.nodes > 1 else "")


def queues_with_work(session: Session) -> list[str]:
    """The queues in which a wake-up would find something to do."""
    queued = Job.state == literal_column("'queued'")
    # Asked for each device, because the whole queue would be read to find the devices in it.
    waits = select(*(exists().where(queued, Job.device == device.value) for device in Device))
    devices = [device for device, found in zip(Device, session.execute(waits).one(), strict=True) if found]
    return sorted({queue for device in (*devices, *seats.devices_wanted(session)) for queue in queues_for(device)})


class Contact:
    """For how long this process has reached the ledger without a gap that may have been an outage.

    Only its own contacts count, so a process that has just started, or was suspended, knows of none.
    """

    def __init__(self, longest_gap: float) -> None:
        self._longest_gap = longest_gap
        self._first: float | None = None
        self._last = 0.0

    def made(self) -> None:
        now = boottime()
        if self._first is None or now - self._last > self._longest_gap:
            self._first = now
        self._last = now

    def lost(self) -> None:
        self._first = None

    def seconds(self) -> float:
        return 0.0 if self._first is None else self._last - self._first


class Housekeeper:
    """Two side tasks that do the housekeeping every few seconds, one in the ledger and one in storage.

    Each works only if it gets its lock, which belongs to a transaction. The database ends this transaction once it has
    been idle for too long, so a process that stands still does not hold the others up for ever.
    """

    def __init__(self, database: Database, send_wakeup: SendWakeup, settings: Settings, storage: Storage) -> None:
        self._database = database
        self._send_wakeup = send_wakeup
        self._lease_seconds = settings.lease_seconds
        self._audit_days = settings.audit_days
        self._quotas = settings.quotas
        # With a longer pause an outage could pass unnoticed.
        self._seconds = min(settings.housekeeping_seconds, settings.lease_seconds / 3)
        self._storage = storage
        self._expired_at: float | None = None
        self._retention_days = settings.retention_days
        self._signed_seconds = settings.presigned_seconds
        self._upload_retention_days = settings.upload_retention_days
        self._contact = Contact(settings.lease_seconds)
        self._tasks = [
            SideTask("housekeeper", partial(self._repeat, self.keep_ledger)),
            SideTask("storage-housekeeper", partial(self._repeat, self.keep_storage)),
        ]

    def start(self) -> None:
        for task in self._tasks:
            task.start()

    def stop(self) -> None:
        for task in self._tasks:
            task.ask_to_stop()
        for task in self._tasks:
            task.stop(self._seconds + 5)

    def _repeat(self, keep: Callable[[], bool], stopped: threading.Event) -> None:
        while not stopped.wait(self._seconds):
            try:
                keep()
            except Exception as failure:
                # The next round may succeed, or another process takes over.
                if not is_outage(failure) and not isinstance(failure, OSError):
                    raise
                log.warning("housekeeping failed; trying again soon", error=first_line(failure))

    def keep_ledger(self) -> bool:
        """Do everything in the ledger once. False if another process is doing it."""
        with self._lock(LEDGER_LOCK, self._lease_seconds) as held:
            if held:
                self._keep_ledger()
        return held

    def keep_storage(self) -> bool:
        """Remove from storage what nobody needs. False if another process is doing it."""
        with self._lock(STORAGE_LOCK, STORAGE_LOCK_SECONDS) as held:
            if held:
                self._keep_storage()
        return held

    @contextmanager
    def _lock(self, number: int, seconds: float) -> Iterator[bool]:
        """Whether this process got the lock. After `seconds` it may lose it to another, which does no harm."""
        with ExitStack() as stack:
            with self._in_contact():
                connection = self._database.engine.connect()
                stack.callback(_give_back, connection)
                allow_idle(connection, seconds)
                held = bool(connection.scalar(select(func.pg_try_advisory_xact_lock(number))))
            yield held

    def _keep_ledger(self) -> None:
        for duty in (self._reap, self._advance_studies, self._forget, self._send_wakeups):
            try:
                duty()
            except Exception as failure:
                if is_down(failure):
                    raise
                # The other duties must be done all the same.
                log.exception("a part of the housekeeping failed", part=duty.__name__.strip("_"))

    def _reap(self) -> None:
        # During an outage no worker could renew its lease. So all get the length of a lease to come back.
        if self._contact.seconds() < self._lease_seconds:
            return
        for job_id in self._in_session(partial(reap, server_up_for=self._lease_seconds)):
            log.warning("lease expired", job=job_id)

    def _advance_studies(self) -> None:
        for study_id in self._in_session(due):
            self._advance(study_id)

    def _forget(self) -> None:
        self._in_session(workers.forget_dead)
        self._in_session(idempotency.forget_old_keys)
        self._in_session(deliveries.forget_old)
        self._in_session(limits.give_up_backlogs)
        self._in_session(partial(audit.forget_old, days=self._audit_days))

    def _send_wakeups(self) -> None:
        for queue in self._in_session(queues_with_work):
            self._send_wakeup(queue)

    def _keep_storage(self) -> None:
        if (wrong := storage_fault(self._storage, self._in_session(marker_key))) is not None:
            # If this folder is not the storage, removals would find no files, but the rows would be deleted.
            log.warning("nothing removed from storage", reason=wrong)
            return
        self._in_session(uploads.delete_abandoned)
        self._expire()
        self._remove_recorded()
        self._remove_spent_checkpoints()
        self._storage.remove_leftovers(LEFTOVER_SECONDS, partial(self._in_session, uploads.unfinished))

    def _expire(self) -> None:
        if self._expired_at is not None and boottime() - self._expired_at < EXPIRY_SECONDS:
            return
        self._expired_at = boottime()
        if (days := self._retention_days) is not None:
            for job_id in self._in_session(
                partial(retention.expire_jobs, days=days, signed_seconds=self._signed_seconds)
            ):
                log.info("files of a finished job expired", job=job_id)
        if (days := self._upload_retention_days) is not None:
            for upload_id in self._in_session(partial(retention.expire_uploads, days=days)):
                log.info("unused upload removed", upload=upload_id)

    def _remove_recorded(self) -> None:
        removed, failures = [], []
        for prefix in self._in_session(removals.due):
            try:
                self._storage.delete_prefix(prefix)
            except OSError as failure:
                failures.append(failure)
            else:
                removed.append(prefix)
        if removed:
            self._in_session(partial(removals.forget, prefixes=removed))
        if failures:
            log.warning("files not removed from storage yet", prefixes=len(failures), error=str(failures[0]))

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
            queues = self._in_session(lambda session: advance(session, study_id, self._quotas))
        except Exception as failure:
            if is_down(failure):
                raise
            # The other studies and the rest of the housekeeping must continue.
            log.exception("study not advanced", study=study_id)
        else:
            for queue in queues:
                self._send_wakeup(queue)

    def _in_session(self, action: Callable[[Session], T]) -> T:
        with self._in_contact(), self._database.session() as session:
            return action(session)

    @contextmanager
    def _in_contact(self) -> Iterator[None]:
        try:
            yield
        except Exception as failure:
            if is_down(failure):
                self._contact.lost()
            raise
        self._contact.made()


def _give_back(connection: Connection) -> None:
    """Give the lock back. What was done under it is done, also if the lock was lost meanwhile."""
    try:
        connection.close()
    except DBAPIError as failure:
        if not is_outage(failure):
            raise
        log.info("the lock of housekeeping was lost before its round ended", error=first_line(failure))
