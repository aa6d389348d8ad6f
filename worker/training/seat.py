"""A worker's part of an attempt that another worker has claimed: it runs its ranks until they or the attempt end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from jobs.database.connection import Database
from jobs.database.outages import first_line, is_outage
from jobs.errors import NotFound, Stale
from jobs.ledger import attempts, seats, uploads
from jobs.ledger.attempts import Claim, Heartbeat
from jobs.ledger.seats import TakenSeat
from jobs.settings import Settings
from jobs.storage import layout
from jobs.storage.storage import Storage
from lit_spec import ErrorType, JobError
from lit_spec.states import UploadState
from lit_spec.trainer.folder import LOG_FILE, TrainerExit
from lit_spec.trainer.run import TrainerMachine
from worker.host.children import execute
from worker.training.attempt_results import describe_exit
from worker.training.job_folder import InputRefused, UploadMissing, prepare
from worker.training.launching import command_for
from worker.training.lease import Interrupted, InterruptReason, Lease
from worker.training.limits import LimitWatch, TrainerLimits
from worker.training.metrics import TrainingMetrics
from worker.training.trainer_process import Trainer

LOOK_SECONDS = 0.1


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
    """Runs the seat's ranks in `folder` as long as its lease lasts."""

    database: Database
    storage: Storage
    seat: TakenSeat
    lease: Lease
    folder: Path
    environment: dict[str, str]
    machine: TrainerMachine
    settings: Settings
    log: Any
    metrics: TrainingMetrics

    def run(self) -> str:
        """Run the part and record its end. Returns its name for logs: done, released, lost or stale."""
        try:
            return self._run()
        except Stale:
            # Node 0 has finished the attempt, or the attempt is lost for all.
            self.log.info("the attempt that this worker had joined has ended")
            return "stale"
        except Interrupted as interrupted:
            self.log.info("seat given up", reason=interrupted.reason.value)
            if interrupted.reason is not InterruptReason.DRAIN:
                return "stale"
            self._write(lambda session: attempts.release(session, claim_of(self.seat), "a worker was told to stop"))
            return "released"

    def _run(self) -> str:
        claim = claim_of(self.seat)
        try:
            self._prepare(claim)
            code, last_line = self._train(claim)
        except (OSError, UploadMissing, InputRefused) as failure:
            return self._lose(f"a worker that had joined could not prepare the job: {failure}")
        self._store_log()
        if code == TrainerExit.DONE:
            self._write(lambda session: seats.leave(session, self.seat))
            # After a drain all ranks have stopped together, and node 0 gives the job back.
            return "released" if self.lease.reason is InterruptReason.DRAIN else "done"
        self.lease.check()
        return self._lose(f"on node {self.seat.node} {describe_exit(code, last_line)}")

    def _prepare(self, claim: Claim) -> None:
        prepare(self.folder, claim, self.storage, self.settings, self.machine, self.lease.check, self._size_of)

    def _size_of(self, upload_id: str) -> int | None:
        with self.database.session() as session:
            try:
                upload = uploads.get(session, self.seat.owner, upload_id)
            except NotFound:
                return None
            return upload.size if upload.state == UploadState.COMPLETE else None

    def _train(self, claim: Claim) -> tuple[int, str]:
        limits = TrainerLimits.of(self.settings, self.folder, claim.device)
        command: Sequence[str] = command_for(
            self.seat.spec,
            (),
            self.seat.endpoint,
            node=self.seat.node,
            run=f"{claim.job_id}-{claim.attempt}",
            join_seconds=self.settings.join_seconds,
        )
        started = Trainer(execute, command, self.folder, self.environment, limits, self.lease.check)
        watch = LimitWatch(started.pid, started.kill, limits, self.folder, self.metrics.memory)
        with started as trainer, watch:
            self.log.info("ranks started", pid=trainer.pid, node=self.seat.node)
            self.lease.attach(trainer)
            while not trainer.exited():
                if self.lease.lost:
                    trainer.kill()
                trainer.messages(LOOK_SECONDS)
            code = trainer.end()
            self.lease.detach()
            self.log.info("ranks ended", exit_code=code)
            return code, trainer.last_log_line()

    def _lose(self, detail: str) -> str:
        self.lease.check()
        error = JobError(type=ErrorType.TRAINER_CRASHED, detail=detail[:2000].replace("\0", ""))
        self._write(lambda session: attempts.lose(session, claim_of(self.seat), error))
        return "lost"

    def _store_log(self) -> None:
        try:
            key = layout.node_log(self.seat.job_id, self.seat.attempt, self.seat.node)
            self.storage.put_file(key, self.folder / LOG_FILE)
        except OSError as failure:
            self.log.warning("log of the ranks not stored", error=str(failure))

    def _write(self, action: Callable[[Session], None]) -> None:
        """During an outage nothing is written: the lease of the seat then expires, and the attempt is lost."""
        try:
            with self.lease.closing(), self.database.session() as session:
                action(session)
                self.lease.closed()
        except Exception as failure:
            if not is_outage(failure):
                raise
            self.log.warning("ledger out of reach: the end of the seat is not recorded", error=first_line(failure))
