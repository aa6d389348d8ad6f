"""One attempt at one job, from the claim to the transaction that records its result."""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from jobs.database.outages import first_line, is_outage
from jobs.errors import Stale
from jobs.ids import new_id
from jobs.ledger import attempts, seats
from jobs.ledger.attempts import Artifact, Event, Metric
from jobs.storage import checkpoints, layout
from jobs.tracing import Tracing
from lit_spec import ErrorType, JobError
from lit_spec.trainer.clock import boottime
from lit_spec.trainer.folder import OUTPUT_FOLDER, PLAN_OUTPUT, REQUIRED_OUTPUT, TrainerExit
from lit_spec.trainer.messages import (
    CheckpointWritten,
    Drained,
    EpochDone,
    Failed,
    Finished,
    Progress,
    Started,
    StudentChosen,
    StudentMeasured,
    TeacherMeasured,
    TrainerMessage,
)
from lit_spec.trainer.phases import JobPhase
from lit_spec.trainer.plan import PlanSummary
from worker.training.attempt_results import (
    CANCELLED,
    MAY_FOLLOW_ANOTHER_END,
    OTHER_DRAINED,
    RELEASED,
    STALE,
    WAITS_FOR_OLDER,
    AttemptResult,
    crashed,
    expired,
    failed,
    lost,
    succeeded,
    too_few_workers,
    trainer_failed,
)
from worker.training.copies import Copies
from worker.training.job_folder import InputRefused, UploadMissing
from worker.training.lease import Interrupted, InterruptReason
from worker.training.part import Part
from worker.training.progress import AttemptProgress
from worker.training.spans import PhaseSpans
from worker.training.trainer_process import Trainer

SEAT_LOOK_SECONDS = 0.3
SECONDS_FOR_REPORTS = 10.0
"""Enough for a worker that has joined to find out whether its device works."""


@dataclass
class Attempt:
    """Runs the claimed job as long as the lease lasts."""

    part: Part
    progress: AttemptProgress
    tracing: Tracing
    an_older_one_waits: Callable[[Session], bool]
    """Whether an older job waits for this worker, which then must not wait for others itself."""
    _last_message: Finished | Failed | Drained | None = None

    def run(self) -> AttemptResult:
        """Run the attempt and record its result, which is returned."""
        log = self.part.log
        try:
            with Copies(self.part, self._record_checkpoints) as self._copies:
                result = self._result()
                self.part.lease.detach()
                self._finish(result)
                self._remove_spent_checkpoints()
        except Stale:
            log.warning("stale: another attempt has the job")
            return STALE
        except Interrupted as interrupted:
            log.warning("attempt given up", reason=interrupted.reason.value)
            return STALE
        return result

    def _result(self) -> AttemptResult:
        try:
            return self._run_trainer()
        except Interrupted as interrupted:
            return self._interrupted(interrupted.reason)

    def _run_trainer(self) -> AttemptResult:
        self._record_progress(JobPhase.PREPARING)
        try:
            with self.tracing.span("prepare"):
                self.part.prepare()
            if (missing_workers := self._wait_for_seats()) is not None:
                return missing_workers
            trainer = self.part.start_trainer()
        except (UploadMissing, InputRefused, OSError) as failure:
            return self.part.not_started(failure)
        with self.tracing.span("trainer") as span:
            self._phases = PhaseSpans(self.tracing)
            code, limit_hit = self.part.run_trainer(trainer, self._take)
            self._copies.finish()
            self._phases.end()
            span.set("lit.exit_code", code)
        return self._judge(code, trainer, limit_hit)

    def _wait_for_seats(self) -> AttemptResult | None:
        """Wait until other workers have taken all seats of a job with several nodes. Returns the result of the attempt
        if too few come, or if they wait for this worker. Raises Interrupted."""
        nodes, seconds = self.part.claim.spec.nodes, self.part.settings.join_seconds
        give_up_at = boottime() + seconds
        while nodes > 1:
            self.part.lease.check()
            left = self._open_seats()
            if left == 0:
                return None
            if self.part.ledger.until_lost(self.an_older_one_waits):
                return WAITS_FOR_OLDER
            if boottime() > give_up_at:
                return too_few_workers(nodes - left, nodes, seconds)
            time.sleep(SEAT_LOOK_SECONDS)
        return None

    def _open_seats(self) -> int:
        """Raises Stale when the attempt has ended, and Interrupted."""
        claim = self.part.claim
        return self.part.ledger.until_lost(lambda session: seats.still_open(session, claim.job_id, claim.attempt))

    def _interrupted(self, reason: InterruptReason) -> AttemptResult:
        if reason is InterruptReason.CANCEL:
            return CANCELLED
        if reason is InterruptReason.DRAIN:
            return RELEASED
        if reason is InterruptReason.TIME_LIMIT:
            spec = self.part.claim.spec
            less = "lower the epochs" if spec.student.plan is None else "measure fewer students"
            detail = f"the job took longer than its limit of {spec.time_limit_s} s: raise time_limit_s or {less}"
            return failed(JobError(type=ErrorType.TIME_LIMIT, detail=detail, field="time_limit_s"))
        if reason is InterruptReason.EXPIRED:
            self.part.log.warning("lease expired; giving the job back")
            return expired(lambda: self.part.lease.cut_off)
        raise Interrupted(reason)

    def _judge(self, code: int, trainer: Trainer, limit_hit: JobError | None) -> AttemptResult:
        self.part.lease.check_not_lost()
        if isinstance(self._last_message, Finished) and code == TrainerExit.DONE:
            return self._store_and_succeed(self._last_message)
        if isinstance(self._last_message, Failed) and code == TrainerExit.FAILED:
            return trainer_failed(trainer.limits.refined(self._last_message.error))
        self.part.lease.check()
        nodes = self.part.claim.spec.nodes
        if isinstance(self._last_message, Drained) and nodes > 1:
            return OTHER_DRAINED
        if limit_hit is not None:
            return failed(limit_hit)
        if nodes > 1 and code in MAY_FOLLOW_ANOTHER_END:
            self._wait_for_reports()
        return crashed(code, trainer.last_log_line(), self.part.folder)

    def _wait_for_reports(self) -> None:
        """Let the workers that have joined say first what is wrong with them: this trainer ended because theirs did.

        Raises Stale when one of them has recorded the end of the attempt.
        """
        give_up_at = boottime() + SECONDS_FOR_REPORTS
        while self.part.lease.reason is None and boottime() < give_up_at:
            self._open_seats()
            time.sleep(SEAT_LOOK_SECONDS)

    # --- while the trainer runs ---

    def _take(self, messages: list[TrainerMessage]) -> None:
        """Record what the trainer has said since the last call, and copy what it has written."""
        if messages:
            self._record_messages(messages)
        if self.progress.is_due(boottime()):
            self._write_progress()
        self._copies.advance()

    def _record_messages(self, messages: list[TrainerMessage]) -> None:
        """Record new messages in one transaction, except checkpoints: they are recorded after they are stored."""
        events: list[Event] = []
        metrics: list[Metric] = []
        for message in messages:
            self.progress.take(message, boottime())
            self.part.metrics.trainer_said(message)
            self._phases.trainer_said(message)
            match message:
                case EpochDone():
                    events.append(Event("epoch", message.model_dump(mode="json", exclude={"type", "steps"})))
                    values = message.metrics.items()
                    metrics += [Metric(message.phase.value, message.epoch, name, value) for name, value in values]
                case Progress():
                    pass
                case Started() | TeacherMeasured() | StudentChosen():
                    events.append(Event(message.type, message.data))
                case StudentMeasured(number=number, students=students):
                    events.append(Event(message.type, {"number": number, "students": students, **message.data}))
                case CheckpointWritten():
                    self._copies.add(message)
                case Finished() | Failed():
                    self._last_message = message
                case Drained():
                    self._last_message = message
                    self.part.log.info("trainer drained")
        if events:
            self._record(events, metrics)

    def _record_checkpoints(self, covered: list[CheckpointWritten]) -> None:
        events = [Event("checkpoint", message.model_dump(mode="json", exclude={"type"})) for message in covered]
        self._record(events, checkpoint=layout.checkpoint(self.part.claim.job_id, self.part.claim.attempt))

    def _record(self, events: list[Event], metrics: Sequence[Metric] = (), checkpoint: str | None = None) -> None:
        batch = new_id("bat")
        self.part.ledger.until_lost(lambda session: self._record_in(session, batch, events, metrics, checkpoint))

    def _record_progress(self, phase: JobPhase) -> None:
        """Record what the worker itself does now."""
        self.progress.take(Progress(phase=phase), boottime())
        self._write_progress()

    def _write_progress(self) -> None:
        """Record the progress alone, without an event. One that an outage loses is replaced by the next one."""
        if self.part.lease.lost:
            return
        try:
            self.part.ledger.once(lambda session: self._record_in(session, new_id("bat")))
        except Exception as failure:
            if not is_outage(failure):
                raise
            self.part.log.warning("ledger out of reach; progress not recorded", error=first_line(failure))

    def _record_in(
        self,
        session: Session,
        batch: str,
        events: Sequence[Event] = (),
        metrics: Sequence[Metric] = (),
        checkpoint: str | None = None,
    ) -> None:
        """The newest progress goes with whatever is recorded."""
        now = boottime()
        progress, left = self.progress.newest(now), self.progress.seconds_left(now)
        claim = self.part.claim
        attempts.record(session, claim, events, metrics, progress, checkpoint, batch, seconds_left=left)

    # --- the end ---

    def _store_and_succeed(self, message: Finished) -> AttemptResult:
        self._record_progress(JobPhase.STORING)
        metrics = self.part.metrics
        try:
            with metrics.store_seconds.time(), self.tracing.span("store"):
                manifest = self._store_output()
            metrics.store_bytes.inc(sum(artifact.size for artifact in manifest))
        except OSError as failure:
            fault = f"the worker could not store the output: {failure}"
            return lost(ErrorType.WORKER_LOST, fault, fault=fault)
        required = PLAN_OUTPUT if isinstance(message.result, PlanSummary) else REQUIRED_OUTPUT
        missing = [name for name in required if name not in {artifact.name for artifact in manifest}]
        if missing:
            return lost(ErrorType.TRAINER_CRASHED, f"the trainer finished without writing {', '.join(missing)}")
        return succeeded(message.result.as_json(), manifest)

    def _store_output(self) -> list[Artifact]:
        part = self.part
        part.check_storage()
        manifest = []
        output = part.folder / OUTPUT_FOLDER
        for path in sorted(output.iterdir()) if output.is_dir() else []:
            if not stat.S_ISREG(path.lstat().st_mode):
                part.log.warning("output is not a regular file: left out", name=path.name)
                continue
            part.lease.check_not_lost()
            key = layout.output(part.claim.job_id, part.claim.attempt, path.name)
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            part.storage.put_file(key, path)
            manifest.append(Artifact(path.name, key, path.stat().st_size, sha256))
        return manifest

    def _finish(self, attempt_result: AttemptResult) -> None:
        """The one transaction that finishes the attempt."""
        claim, lease = self.part.claim, self.part.lease

        def write(session: Session) -> None:
            # So that the time limit of the next attempt counts all seconds, not only those until the last heartbeat.
            attempts.count_seconds(session, claim, lease.seconds_used())
            attempt_result.write(session, claim)

        with self.tracing.span("finish"):
            self.part.ledger.finish(write)
        self.part.log.info("attempt finished", result=attempt_result.name)

    def _remove_spent_checkpoints(self) -> None:
        """Remove the job's checkpoints if it is finished. The trainer's logs stay."""
        try:
            for key in self.part.ledger.once(lambda session: checkpoints.spent(session, self.part.claim.job_id)):
                self.part.storage.delete(key)
        except (SQLAlchemyError, OSError) as failure:
            self.part.log.warning("checkpoints left to housekeeping", error=first_line(failure))
