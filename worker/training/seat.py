"""A worker's part of an attempt that another worker has claimed: it runs its ranks until they or the attempt end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from jobs.database.connection import Database
from jobs.database.models import Upload
from jobs.database.outages import first_line, is_outage
from jobs.errors import NotFound, Stale
from jobs.ledger import seats, uploads
from jobs.ledger.attempts import Claim, Heartbeat
from jobs.ledger.seats import TakenSeat
from jobs.settings import Settings
from jobs.storage import layout
from jobs.storage.marker import storage_fault
from jobs.storage.storage import Storage
from lit_spec import JobError
from lit_spec.states import UploadState
from lit_spec.trainer.folder import LOG_FILE, TrainerExit
from lit_spec.trainer.run import TrainerMachine
from worker.host.children import execute
from worker.host.devices import device_fault
from worker.training.attempt_results import (
    MAY_FOLLOW_ANOTHER_END,
    OTHER_DRAINED,
    STALE,
    AttemptResult,
    crashed,
    failed,
    unfit,
    upload_missing,
)
from worker.training.job_folder import InputRefused, UploadMissing, prepare
from worker.training.launching import command_for
from worker.training.lease import Interrupted, InterruptReason, Lease
from worker.training.limits import LimitWatch, TrainerLimits
from worker.training.metrics import TrainingMetrics
from worker.training.trainer_process import Trainer

LOOK_SECONDS = 0.1
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
    """Runs the seat's ranks in `folder` as long as its lease lasts."""

    database: Database
    storage: Storage
    marker: str
    """Storage key of the marker, which shows that the storage is the ledger's."""
    seat: TakenSeat
    lease: Lease
    folder: Path
    environment: dict[str, str]
    machine: TrainerMachine
    settings: Settings
    log: Any
    metrics: TrainingMetrics

    def run(self) -> AttemptResult:
        """Run the part and record its result, which is returned: STALE if node 0 has recorded the end before."""
        try:
            result = self._result()
            self._write(lambda session: result.write(session, claim_of(self.seat)))
        except Stale:
            # Node 0 has finished the attempt, or the attempt is lost for all.
            self.log.info("the attempt that this worker had joined has ended")
            return STALE
        except Interrupted as interrupted:
            self.log.info("seat given up", reason=interrupted.reason.value)
            return STALE
        return result

    def _result(self) -> AttemptResult:
        try:
            return self._run_ranks(claim_of(self.seat))
        except Interrupted as interrupted:
            if interrupted.reason is not InterruptReason.DRAIN:
                raise
            return OTHER_DRAINED

    def _run_ranks(self, claim: Claim) -> AttemptResult:
        try:
            prepare(self.folder, claim, self.storage, self.settings, self.machine, self.lease.check, self._size_of)
            limits = TrainerLimits.of(self.settings, self.folder, claim.device)
            started = self._start(claim, limits)
        except UploadMissing as missing:
            upload = self._find_upload(missing.upload)
            return upload_missing(missing, upload, storage_fault(self.storage, self.marker))
        except InputRefused as refused:
            return failed(refused.error)
        except OSError as failure:
            return unfit(f"a worker that had joined could not prepare the job: {failure}")
        watch = LimitWatch(started.pid, started.kill, limits, self.folder, self.metrics.memory)
        with started as trainer, watch:
            code = self._follow(trainer)
        self.metrics.memory(0)
        self._store_log()
        return self._judge(code, trainer, watch.error or limits.error_of_exit(code))

    def _judge(self, code: int, trainer: Trainer, limit_hit: JobError | None) -> AttemptResult:
        if code == TrainerExit.DONE:
            # After a drain all ranks have stopped together, and node 0 gives the job back.
            name = "released" if self.lease.reason is InterruptReason.DRAIN else "done"
            return AttemptResult(name, lambda session, _claim: seats.leave(session, self.seat))
        self.lease.check()
        if limit_hit is not None:
            return failed(limit_hit)
        if code in MAY_FOLLOW_ANOTHER_END:
            if self.seat.device != "cpu" and (fault := device_fault([self.seat.device])) is not None:
                return unfit(fault)
            # Node 0 may know why, and says so before this write.
            time.sleep(SECONDS_FOR_NODE_0)
        return crashed(code, f"node {self.seat.node}: {trainer.last_log_line()}", self.folder)

    def _find_upload(self, upload_id: str) -> Upload | None:
        with self.database.session() as session:
            try:
                return uploads.get(session, self.seat.owner, upload_id)
            except NotFound:
                return None

    def _size_of(self, upload_id: str) -> int | None:
        upload = self._find_upload(upload_id)
        return upload.size if upload is not None and upload.state == UploadState.COMPLETE else None

    def _start(self, claim: Claim, limits: TrainerLimits) -> Trainer:
        command = command_for(
            self.seat.spec,
            (),
            self.seat.endpoint,
            node=self.seat.node,
            run=f"{claim.job_id}-{claim.attempt}",
            join_seconds=self.settings.join_seconds,
        )
        return Trainer(execute, command, self.folder, self.environment, limits, self.lease.check)

    def _follow(self, trainer: Trainer) -> int:
        self.log.info("ranks started", pid=trainer.pid, node=self.seat.node)
        self.lease.attach(trainer)
        while not trainer.exited():
            if self.lease.lost:
                trainer.kill()
            trainer.messages(LOOK_SECONDS)
        code = trainer.end()
        self.lease.detach()
        self.log.info("ranks ended", exit_code=code)
        return code

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
