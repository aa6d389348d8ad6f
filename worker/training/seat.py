"""A worker's part of an attempt that another worker has claimed: it runs its ranks until they or the attempt end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from jobs.errors import Stale
from jobs.ledger import seats
from jobs.ledger.attempts import Claim, Heartbeat
from jobs.ledger.seats import TakenSeat
from jobs.storage import layout
from lit_spec import JobError
from lit_spec.trainer.folder import LOG_FILE, TrainerExit
from worker.host.devices import device_fault
from worker.training.attempt_results import (
    MAY_FOLLOW_ANOTHER_END,
    OTHER_DRAINED,
    STALE,
    AttemptResult,
    crashed,
    failed,
    unfit,
)
from worker.training.job_folder import InputRefused, UploadMissing
from worker.training.lease import Interrupted, InterruptReason
from worker.training.part import Part
from worker.training.trainer_process import Trainer

SECONDS_FOR_NODE_0 = 2.0


def claim_of(seat: TakenSeat) -> Claim:
    """The attempt as the seat's worker sees it. Only node 0 looks at the time limit."""
    return Claim(
        job_id=seat.job_id,
        attempt=seat.attempt,
        owner=seat.owner,
        spec=seat.spec.model_copy(update={"time_limit_s": None}),
        device=seat.device,
        checkpoint=seat.checkpoint,
        seconds_used=0.0,
        endpoint=seat.endpoint,
    )


def heartbeat_of(seat: TakenSeat) -> Callable[[Session, float, float], Heartbeat]:
    """What the lease of a seat sends. A cancel reaches the seat through node 0."""

    def beat(session: Session, lease_seconds: float, _seconds_used: float) -> Heartbeat:
        seats.renew(session, seat, lease_seconds)
        return Heartbeat(cancel_requested=False)

    return beat


@dataclass
class SeatAttempt:
    """Runs the seat's ranks as long as its lease lasts."""

    part: Part
    seat: TakenSeat

    def run(self) -> AttemptResult:
        """Run the part and record its result, which is returned: STALE if node 0 has recorded the end before."""
        try:
            result = self._result()
            self.part.ledger.finish(lambda session: result.write(session, self.part.claim))
        except Stale:
            # Node 0 has finished the attempt, or the attempt is lost for all.
            self.part.log.info("the attempt that this worker had joined has ended")
            return STALE
        except Interrupted as interrupted:
            self.part.log.info("seat given up", reason=interrupted.reason.value)
            return STALE
        return result

    def _result(self) -> AttemptResult:
        try:
            return self._run_ranks()
        except Interrupted as interrupted:
            if interrupted.reason is not InterruptReason.DRAIN:
                raise
            return OTHER_DRAINED

    def _run_ranks(self) -> AttemptResult:
        try:
            self.part.prepare()
            trainer = self.part.start_trainer()
        except (UploadMissing, InputRefused, OSError) as failure:
            return self.part.not_started(failure)
        # Only the first rank of all sends messages, and it is node 0's.
        code, limit_hit = self.part.run_trainer(trainer, lambda _: None)
        self._store_log()
        return self._judge(code, trainer, limit_hit)

    def _judge(self, code: int, trainer: Trainer, limit_hit: JobError | None) -> AttemptResult:
        if code == TrainerExit.DONE:
            # After a drain all ranks have stopped together, and node 0 gives the job back.
            name = "released" if self.part.lease.reason is InterruptReason.DRAIN else "done"
            return AttemptResult(name, lambda session, _claim: seats.leave(session, self.seat))
        self.part.lease.check()
        if limit_hit is not None:
            return failed(limit_hit)
        if code in MAY_FOLLOW_ANOTHER_END:
            if self.seat.device != "cpu" and (fault := device_fault([self.seat.device])) is not None:
                return unfit(fault)
            # Node 0 may know why, and says so before this write.
            time.sleep(SECONDS_FOR_NODE_0)
        return crashed(code, f"node {self.seat.node}: {trainer.last_log_line()}", self.part.folder)

    def _store_log(self) -> None:
        try:
            key = layout.node_log(self.seat.job_id, self.seat.attempt, self.seat.node)
            self.part.storage.put_file(key, self.part.folder / LOG_FILE)
        except OSError as failure:
            self.part.log.warning("log of the ranks not stored", error=str(failure))
