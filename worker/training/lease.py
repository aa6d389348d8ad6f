"""The lease of one claim: heartbeats to the ledger, deadlines to the trainer, and why the attempt is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from jobs.database.connection import Database
from jobs.database.outages import first_line, is_down, is_outage
from jobs.errors import Stale
from jobs.ledger import attempts
from jobs.ledger.attempts import Claim, Heartbeat
from jobs.side_task import SideTask
from lit_spec.trainer.clock import boottime
from worker.training.metrics import TrainingMetrics
from worker.training.trainer_process import Trainer

LOOK_SECONDS = 0.1
HEARTBEAT_SECONDS = 2.0
"""Heartbeats are sent at least this often, because their answers say whether a cancel was requested. With short leases
they are sent more often."""
RETRY_SECONDS = 0.5


class InterruptReason(StrEnum):
    """Why an attempt is interrupted before its trainer has finished."""

    CANCEL = "cancel"
    DRAIN = "drain"
    TIME_LIMIT = "time-limit"
    STALE = "stale"
    """Another attempt has the job, or it is no longer running."""
    EXPIRED = "expired"
    """No heartbeat succeeded for so long that another worker may have the job."""


FATAL = (InterruptReason.STALE, InterruptReason.EXPIRED)
"""The lease is lost: nothing more may be written for the attempt, except that it gives an expired lease back."""
SECONDS_TO_STOP = {InterruptReason.CANCEL: 5.0, InterruptReason.DRAIN: 20.0, InterruptReason.TIME_LIMIT: 10.0}
"""How long a trainer may take to write its checkpoint before it is killed."""


Beat = Callable[[Session, float, float], Heartbeat]
"""Renews a lease, given its seconds and the seconds of training so far. Raises Stale."""


def _beat_of_job(claim: Claim, session: Session, lease_seconds: float, seconds_used: float) -> Heartbeat:
    return attempts.heartbeat(session, claim, lease_seconds, seconds_used)


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
        log: Any,
        metrics: TrainingMetrics,
        beat: Beat | None = None,
    ) -> None:
        """`beat` renews another lease than that of the claim's job, in the ledger."""
        self._beat = beat or partial(_beat_of_job, claim)
        self._database = database
        self._claim = claim
        self._drain = drain
        self._lease_seconds = lease_seconds
        self._interval = min(HEARTBEAT_SECONDS, lease_seconds / 3)
        self._margin = min(5.0, lease_seconds / 5)
        self._log = log
        self._metrics = metrics
        self.deadline = claimed_at + lease_seconds - self._margin
        self._next_heartbeat = boottime() + self._interval
        self._trainer: Trainer | None = None
        self._trainer_started: float | None = None
        self._trained = 0.0
        self._terminated_at: float | None = None
        self._looked_at = boottime()
        self._cut_off = False
        self._reason: InterruptReason | None = None
        self._done = threading.Event()
        self._ledger = threading.RLock()
        self._task = SideTask("lease", self._keep, longest_pause=RETRY_SECONDS)

    def __enter__(self) -> Lease:
        self._task.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._task.stop()

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

    @property
    def cut_off(self) -> bool:
        """Whether the lease could not be renewed because the ledger was out of reach or this process stood still."""
        return self._stands_still() or self._cut_off

    @property
    def draining(self) -> bool:
        """Whether the worker must stop."""
        return self._drain.is_set()

    def check(self) -> None:
        """Raises Interrupted when the attempt must stop."""
        if (reason := self.reason) is not None:
            raise Interrupted(reason)

    def check_not_lost(self) -> None:
        """Raises Interrupted when nothing more may be written for this attempt."""
        if (reason := self.reason) is not None and reason in FATAL:
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

    def _keep(self, _: threading.Event) -> None:
        # While no heartbeat succeeds, the deadline ends the attempt and its trainer.
        while not self._done.wait(LOOK_SECONDS):
            # In this order, so that `cut_off` sees one or the other.
            self._cut_off = self._cut_off or self._stands_still()
            self._looked_at = boottime()
            self._look()

    def _stands_still(self) -> bool:
        """Whether the last look is so long ago that the machine is suspended, or the ledger does not answer."""
        return boottime() - self._looked_at > self._lease_seconds / 3

    def _look(self) -> None:
        if self._drain.is_set():
            self._interrupt(InterruptReason.DRAIN)
        limit = self._claim.spec.time_limit_s
        if limit is not None and self.seconds_used() > limit:
            self._interrupt(InterruptReason.TIME_LIMIT)
        lost = self.lost
        self._stop_trainer()
        # Last, because a heartbeat that fails must not keep the trainer from being stopped.
        if not lost and boottime() >= self._next_heartbeat:
            self._heartbeat()

    def _heartbeat(self) -> None:
        with self._ledger:
            if self._done.is_set():
                return
            sent = boottime()
            self._next_heartbeat = sent + RETRY_SECONDS
            try:
                with self._database.session() as session:
                    beat = self._beat(session, self._lease_seconds, self.seconds_used())
            except Stale:
                self._metrics.heartbeats.labels("stale").inc()
                self._interrupt(InterruptReason.STALE)
                return
            except Exception as failure:
                if not is_outage(failure):
                    raise
                self._cut_off = self._cut_off or is_down(failure)
                self._metrics.heartbeats.labels("failed").inc()
                self._log.warning("heartbeat failed; trying again", error=first_line(failure))
                return
        self._metrics.heartbeats.labels("renewed").inc()
        if not self.lost:
            self._cut_off = False
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
            if reason in FATAL:
                self._metrics.leases_lost.labels(reason.value).inc()
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
