"""The lease of one claim: heartbeats to the ledger, deadlines to the trainer, and why the attempt is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any

from jobs.database.connection import Database
from jobs.database.outages import is_outage
from jobs.errors import Stale
from jobs.ledger import attempts
from jobs.ledger.attempts import Claim
from lit_spec.trainer.clock import boottime
from worker.training.trainer_process import Trainer

LOOK_SECONDS = 0.1
CANCEL_SECONDS = 2.0
"""Heartbeats are sent at least this often, because their answers say whether a cancel was requested."""
RETRY_SECONDS = 0.5


class InterruptReason(StrEnum):
    """Why an attempt is interrupted before its trainer has finished."""

    CANCEL = "cancel"
    DRAIN = "drain"
    TIME_LIMIT = "time-limit"
    STALE = "stale"
    """Another attempt has the job, or it is no longer running."""
    EXPIRED = "expired"
    """The ledger could not be reached for so long that another worker may have the job."""


FATAL = (InterruptReason.STALE, InterruptReason.EXPIRED)
"""Nothing more may be written for the attempt."""
SECONDS_TO_STOP = {InterruptReason.CANCEL: 5.0, InterruptReason.DRAIN: 20.0, InterruptReason.TIME_LIMIT: 10.0}
"""How long a trainer may take to write its checkpoint before it is killed."""


class Interrupted(Exception):
    """Raised by `Lease.check`: the attempt must stop."""

    def __init__(self, reason: InterruptReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Lease:
    """A context manager that renews the lease in its own thread, so that slow storage does not let it expire.

    `claimed_at` is the time before the claim was sent: the ledger's lease cannot have begun earlier.
    """

    def __init__(
        self,
        database: Database,
        claim: Claim,
        drain: threading.Event,
        *,
        claimed_at: float,
        lease_seconds: float,
        heartbeat_seconds: float,
        log: Any,
    ) -> None:
        self._database = database
        self._claim = claim
        self._drain = drain
        self._lease_seconds = lease_seconds
        self._interval = min(heartbeat_seconds, CANCEL_SECONDS, lease_seconds / 3)
        self._margin = min(5.0, lease_seconds / 5)
        self._log = log
        self.deadline = claimed_at + lease_seconds - self._margin
        self._next_heartbeat = boottime() + self._interval
        self._trainer: Trainer | None = None
        self._trainer_started: float | None = None
        self._trained = 0.0
        self._terminated_at: float | None = None
        self._reason: InterruptReason | None = None
        self._done = threading.Event()
        self._ledger = threading.RLock()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def reason(self) -> InterruptReason | None:
        """Why the attempt must stop; None if it may continue."""
        if self._reason not in FATAL and boottime() >= self.deadline and not self._done.is_set():
            self._interrupt(InterruptReason.EXPIRED)
        return self._reason

    @property
    def lost(self) -> bool:
        """Whether nothing more may be written for this attempt, neither to the ledger nor to storage."""
        return self.reason in FATAL

    def check(self) -> None:
        """Raises Interrupted when the attempt must stop."""
        if (reason := self.reason) is not None:
            raise Interrupted(reason)

    def seconds_used(self) -> float:
        """Seconds of training over all attempts so far."""
        started = self._trainer_started
        return self._claim.seconds_used + (self._trained if started is None else boottime() - started)

    def attach(self, trainer: Trainer) -> None:
        """From now on the trainer gets deadlines, and is stopped when the attempt must stop."""
        self._trainer_started = boottime()
        self._trainer = trainer
        trainer.write_deadline(self.deadline)

    def detach(self) -> None:
        """The trainer has ended: its time stops counting."""
        if self._trainer_started is not None:
            self._trained = boottime() - self._trainer_started
            self._trainer_started = None
        self._trainer = None

    def closing(self) -> AbstractContextManager[Any]:
        """Enter this around the transaction that finishes the attempt, so that no heartbeat finds the attempt stale."""
        return self._ledger

    def closed(self) -> None:
        """The attempt is finished in the ledger: no more heartbeats. Call it inside `closing`."""
        self._done.set()

    def _keep(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            self._guarded(self._look)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # noqa: BLE001 - logged with its traceback
            # This thread must live as long as the attempt. Without heartbeats the deadline ends both.
            self._log.exception("lease check failed")
            self._next_heartbeat = boottime() + RETRY_SECONDS

    def _look(self) -> None:
        if not self.lost and boottime() >= self._next_heartbeat:
            self._heartbeat()
        if self._drain.is_set():
            self._interrupt(InterruptReason.DRAIN)
        limit = self._claim.spec.time_limit_s
        if limit is not None and self.seconds_used() > limit:
            self._interrupt(InterruptReason.TIME_LIMIT)
        self._stop_trainer()

    def _heartbeat(self) -> None:
        with self._ledger:
            if self._done.is_set():
                return
            sent = boottime()
            try:
                with self._database.session() as session:
                    beat = attempts.heartbeat(session, self._claim, self._lease_seconds, self.seconds_used())
            except Stale:
                self._interrupt(InterruptReason.STALE)
                return
            except Exception as failure:
                if not is_outage(failure):
                    raise
                self._log.warning("heartbeat failed; trying again", error=str(failure).splitlines()[0])
                self._next_heartbeat = boottime() + RETRY_SECONDS
                return
        self.deadline = sent + self._lease_seconds - self._margin
        self._next_heartbeat = sent + self._interval
        if self._trainer is not None:
            self._trainer.write_deadline(self.deadline)
        if beat.cancel_requested:
            self._interrupt(InterruptReason.CANCEL)

    def _interrupt(self, reason: InterruptReason) -> None:
        """The first reason counts, except that a lost lease replaces any other."""
        if self._reason is None or (reason in FATAL and self._reason not in FATAL):
            self._reason = reason
            self._log.info("attempt interrupted", reason=reason.value)

    def _stop_trainer(self) -> None:
        """Stop the trainer: SIGTERM, later SIGKILL. If the lease is lost, SIGKILL at once."""
        trainer, reason = self._trainer, self._reason
        if trainer is None or reason is None:
            return
        if reason in FATAL:
            trainer.kill()
        elif self._terminated_at is None:
            self._terminated_at = boottime()
            trainer.terminate()
        elif boottime() - self._terminated_at > SECONDS_TO_STOP[reason]:
            trainer.kill()
