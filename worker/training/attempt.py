"""One attempt at one job, from the claim to the transaction that records its result."""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from jobs.database.connection import Database
from jobs.database.models import Upload
from jobs.database.outages import first_line, is_outage
from jobs.errors import NotFound, Stale
from jobs.ids import new_id
from jobs.ledger import attempts, seats, uploads
from jobs.ledger.attempts import Artifact, Claim, Event, Metric
from jobs.settings import Settings
from jobs.storage import checkpoints, layout
from jobs.storage.marker import storage_fault
from jobs.storage.storage import Storage
from jobs.tracing import Tracing
from lit_spec import ErrorType, JobError
from lit_spec.states import UploadState
from lit_spec.trainer.clock import boottime
from lit_spec.trainer.folder import CHECKPOINT_FILE, LOG_FILE, OUTPUT_FOLDER, PLAN_OUTPUT, REQUIRED_OUTPUT, TrainerExit
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
from lit_spec.trainer.run import TrainerMachine
from worker.host.children import Start, execute
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
    unfit,
    upload_missing,
)
from worker.training.job_folder import InputRefused, UploadMissing, prepare
from worker.training.launching import command_for
from worker.training.lease import FATAL, RETRY_SECONDS, Interrupted, InterruptReason, Lease
from worker.training.limits import LimitWatch, TrainerLimits
from worker.training.metrics import TrainingMetrics
from worker.training.progress import AttemptProgress
from worker.training.spans import PhaseSpans
from worker.training.trainer_process import SECONDS_FOR_PIPE, Trainer

LOOK_SECONDS = 0.1
SEAT_LOOK_SECONDS = 0.3
SECONDS_FOR_REPORTS = 10.0
"""Enough for a worker that has joined to find out whether its device works."""
LOG_SECONDS = 2.0

T = TypeVar("T")


@dataclass
class Attempt:
    """Runs the claimed job in `folder` as long as the lease lasts."""

    database: Database
    storage: Storage
    marker: str
    """Storage key of the marker, which shows that the storage is the ledger's."""
    claim: Claim
    lease: Lease
    folder: Path
    start: Start
    command: Sequence[str]
    environment: dict[str, str]
    machine: TrainerMachine
    settings: Settings
    log: Any
    progress: AttemptProgress
    metrics: TrainingMetrics
    tracing: Tracing
    an_older_one_waits: Callable[[Session], bool]
    """Whether an older job waits for this worker, which then must not wait for others itself."""
    _phases: PhaseSpans = field(init=False)
    _last_message: Finished | Failed | Drained | None = None
    _checkpoints: list[CheckpointWritten] = field(default_factory=list)
    _copy: Future[list[CheckpointWritten]] | None = None
    _log_copy: Future[None] | None = None
    _log_size: int = 0
    _log_at: float = 0.0

    def run(self) -> AttemptResult:
        """Run the attempt and record its result, which is returned."""
        with ThreadPoolExecutor(1, thread_name_prefix="copies") as self._copies:
            try:
                result = self._result()
                self.lease.detach()
                self._finish(result)
                self._remove_spent_checkpoints()
            except Stale:
                self.log.warning("stale: another attempt has the job")
                return STALE
            except Interrupted as interrupted:
                self.log.warning("attempt given up", reason=interrupted.reason.value)
                return STALE
        return result

    def _result(self) -> AttemptResult:
        try:
            return self._run_trainer()
        except Interrupted as interrupted:
            if interrupted.reason is not InterruptReason.EXPIRED:
                raise
            self.log.warning("lease expired; giving the job back")
            return expired(lambda: self.lease.cut_off)

    def _run_trainer(self) -> AttemptResult:
        self._record_progress(JobPhase.PREPARING)
        try:
            with self.metrics.prepare_seconds.time(), self.tracing.span("prepare"):
                prepare(
                    self.folder,
                    self.claim,
                    self.storage,
                    self.settings,
                    self.machine,
                    self.lease.check,
                    self._size_of,
                )
            if (missing_workers := self._wait_for_seats()) is not None:
                return missing_workers
            limits = TrainerLimits.of(self.settings, self.folder, self.claim.device)
            started = self._start(limits)
        except UploadMissing as missing:
            upload = self._find_upload(missing.upload)
            return upload_missing(missing, upload, storage_fault(self.storage, self.marker))
        except InputRefused as refused:
            return failed(refused.error)
        except Interrupted as interrupted:
            return self._interrupted(interrupted.reason)
        except OSError as failure:
            return unfit(f"the worker could not prepare the job: {failure}")
        watch = LimitWatch(started.pid, started.kill, limits, self.folder, self.metrics.memory)
        with self.tracing.span("trainer") as span, started as trainer, watch:
            self.log.info("trainer started", pid=trainer.pid)
            self.metrics.trainer_started(self.claim.device)
            self._phases = PhaseSpans(self.tracing)
            self.lease.attach(trainer)
            code = self._follow(trainer)
            self._phases.end()
            span.set("lit.exit_code", code)
            self.log.info("trainer ended", exit_code=code)
        self.metrics.memory(0)
        return self._judge(code, trainer, limits, watch.error)

    def _start(self, limits: TrainerLimits) -> Trainer:
        claim = self.claim
        command = command_for(
            claim.spec,
            self.command,
            claim.endpoint,
            node=0,
            run=f"{claim.job_id}-{claim.attempt}",
            join_seconds=self.settings.join_seconds,
        )
        # A template forks single trainers only.
        start = self.start if claim.spec.processes == 1 else execute
        return Trainer(start, command, self.folder, self.environment, limits, self.lease.check)

    def _wait_for_seats(self) -> AttemptResult | None:
        """Wait until other workers have taken all seats of a job with several nodes. Returns the result of the attempt
        if too few come, or if they wait for this worker. Raises Interrupted."""
        nodes, seconds = self.claim.spec.nodes, self.settings.join_seconds
        give_up_at = boottime() + seconds
        while nodes > 1:
            self.lease.check()
            left = self._write(lambda session: seats.still_open(session, self.claim.job_id, self.claim.attempt))
            if left == 0:
                return None
            if self._write(self.an_older_one_waits):
                return WAITS_FOR_OLDER
            if boottime() > give_up_at:
                return too_few_workers(nodes - left, nodes, seconds)
            time.sleep(SEAT_LOOK_SECONDS)
        return None

    def _find_upload(self, upload_id: str) -> Upload | None:
        def find(session: Session) -> Upload | None:
            try:
                return uploads.get(session, self.claim.owner, upload_id)
            except NotFound:
                return None

        return self._write(find)

    def _size_of(self, upload_id: str) -> int | None:
        upload = self._find_upload(upload_id)
        return upload.size if upload is not None and upload.state == UploadState.COMPLETE else None

    def _interrupted(self, reason: InterruptReason) -> AttemptResult:
        if reason is InterruptReason.CANCEL:
            return CANCELLED
        if reason is InterruptReason.DRAIN:
            return RELEASED
        if reason is InterruptReason.TIME_LIMIT:
            limit = self.claim.spec.time_limit_s
            less = "lower the epochs" if self.claim.spec.student.plan is None else "measure fewer students"
            detail = f"the job took longer than its limit of {limit} s: raise time_limit_s or {less}"
            return failed(JobError(type=ErrorType.TIME_LIMIT, detail=detail, field="time_limit_s"))
        raise Interrupted(reason)

    def _judge(self, code: int, trainer: Trainer, limits: TrainerLimits, limit_hit: JobError | None) -> AttemptResult:
        if (reason := self.lease.reason) in FATAL:
            assert reason is not None  # noqa: S101 - for the type checker
            raise Interrupted(reason)
        if isinstance(self._last_message, Finished) and code == TrainerExit.DONE:
            return self._store_and_succeed(self._last_message)
        if isinstance(self._last_message, Failed) and code == TrainerExit.FAILED:
            return trainer_failed(limits.refined(self._last_message.error))
        if reason is not None:
            return self._interrupted(reason)
        if isinstance(self._last_message, Drained) and self.claim.spec.nodes > 1:
            return OTHER_DRAINED
        if error := limit_hit or limits.error_of_exit(code):
            return failed(error)
        if self.claim.spec.nodes > 1 and code in MAY_FOLLOW_ANOTHER_END:
            self._wait_for_reports()
        return crashed(code, trainer.last_log_line(), self.folder)

    def _wait_for_reports(self) -> None:
        """Let the workers that have joined say first what is wrong with them: this trainer ended because theirs did.

        Raises Stale when one of them has recorded the end of the attempt.
        """
        give_up_at = boottime() + SECONDS_FOR_REPORTS
        while self.lease.reason is None and boottime() < give_up_at:
            self._write(lambda session: seats.still_open(session, self.claim.job_id, self.claim.attempt))
            time.sleep(SEAT_LOOK_SECONDS)

    # --- while the trainer runs ---

    def _follow(self, trainer: Trainer) -> int:
        """Copy the trainer's messages to the ledger and its files to storage until it ends. Returns its exit code."""
        while not trainer.exited():
            self._copy_new(trainer)
        code = trainer.end()
        self.lease.detach()
        give_up_at = boottime() + SECONDS_FOR_PIPE
        while not trainer.all_messages_read() and boottime() < give_up_at:
            self._copy_new(trainer)
        self._finish_copies()
        return code

    def _copy_new(self, trainer: Trainer) -> None:
        """Copy what the trainer has written since the last call."""
        if self.lease.lost:
            # The lease's own thread may be waiting for a ledger that does not answer.
            trainer.kill()
        if messages := trainer.messages(LOOK_SECONDS):
            self._record(messages)
        if self.progress.is_due(boottime()):
            self._write_progress()
        self._copy_checkpoint()
        self._push_log()

    def _record(self, messages: list[TrainerMessage]) -> None:
        """Record new messages in one transaction, except checkpoints: they are recorded after they are stored."""
        events: list[Event] = []
        metrics: list[Metric] = []
        for message in messages:
            self.progress.take(message, boottime())
            self.metrics.trainer_said(message)
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
                    self._checkpoints.append(message)
                case Finished() | Failed():
                    self._last_message = message
                case Drained():
                    self._last_message = message
                    self.log.info("trainer drained")
        if events:
            self._record_batch(events, metrics, None)

    def _record_progress(self, phase: JobPhase) -> None:
        """Record what the worker itself does now."""
        self.progress.take(Progress(phase=phase), boottime())
        self._write_progress()

    def _write_progress(self) -> None:
        """Record the progress alone, without an event. One that an outage loses is replaced by the next one."""
        if self.lease.lost:
            return
        try:
            self._transact(lambda session: self._record_in(session, [], [], None, new_id("bat")))
        except Exception as failure:
            if not is_outage(failure):
                raise
            self.log.warning("ledger out of reach; progress not recorded", error=first_line(failure))

    def _copy_checkpoint(self) -> None:
        """Store the newest checkpoint, one at a time, while the training continues. Record it after it is stored."""
        if self._copy is not None and self._copy.done():
            self._record_checkpoint(self._copy)
            self._copy = None
        if self._checkpoints and self._copy is None and self.lease.reason is not InterruptReason.CANCEL:
            covered, self._checkpoints = self._checkpoints, []
            self._copy = self._copies.submit(self._store_checkpoint, covered)

    def _store_checkpoint(self, covered: list[CheckpointWritten]) -> list[CheckpointWritten]:
        self._check_not_lost()
        self._check_storage()
        file = self.folder / CHECKPOINT_FILE
        with self.metrics.checkpoint_seconds.time():
            self.storage.put_file(layout.checkpoint(self.claim.job_id, self.claim.attempt), file)
        self.metrics.checkpoint_bytes.inc(file.stat().st_size)
        return covered

    def _record_checkpoint(self, copy: Future[list[CheckpointWritten]]) -> None:
        try:
            covered = copy.result()
        except OSError:
            # The training continues. Until a later checkpoint is stored, the earlier one is used.
            self.log.exception("checkpoint not stored")
            return
        events = [Event("checkpoint", message.model_dump(mode="json", exclude={"type"})) for message in covered]
        self._record_batch(events, [], layout.checkpoint(self.claim.job_id, self.claim.attempt))

    def _record_batch(self, events: list[Event], metrics: list[Metric], checkpoint: str | None) -> None:
        batch = new_id("bat")
        self._write(lambda session: self._record_in(session, events, metrics, checkpoint, batch))

    def _record_in(
        self, session: Session, events: list[Event], metrics: list[Metric], checkpoint: str | None, batch: str
    ) -> None:
        """The newest progress goes with whatever is recorded."""
        now = boottime()
        progress, seconds_left = self.progress.newest(now), self.progress.seconds_left(now)
        attempts.record(session, self.claim, events, metrics, progress, checkpoint, batch, seconds_left=seconds_left)

    def _push_log(self) -> None:
        """Store the trainer's log every few seconds, if it has grown."""
        if self._log_copy is not None and not self._log_copy.done():
            return
        if boottime() - self._log_at < LOG_SECONDS:
            return
        self._log_at = boottime()
        self._log_copy = self._copies.submit(self._store_log)

    def _store_log(self) -> None:
        path = self.folder / LOG_FILE
        size = path.stat().st_size
        if size == self._log_size or self.lease.lost:
            return
        try:
            self.storage.put_file(layout.trainer_log(self.claim.job_id, self.claim.attempt), path)
        except OSError:
            self.log.exception("trainer's log not stored")
        else:
            self._log_size = size

    def _finish_copies(self) -> None:
        while self._copy is not None or self._checkpoints:
            if self.lease.reason is InterruptReason.CANCEL:
                self._checkpoints.clear()
            if self._copy is not None:
                self._copy.exception()
            self._copy_checkpoint()
        self._copies.submit(self._store_log).result()

    # --- the end ---

    def _store_and_succeed(self, message: Finished) -> AttemptResult:
        self._record_progress(JobPhase.STORING)
        try:
            with self.metrics.store_seconds.time(), self.tracing.span("store"):
                manifest = self._store_output()
            self.metrics.store_bytes.inc(sum(artifact.size for artifact in manifest))
        except OSError as failure:
            fault = f"the worker could not store the output: {failure}"
            return lost(ErrorType.WORKER_LOST, fault, fault=fault)
        required = PLAN_OUTPUT if isinstance(message.result, PlanSummary) else REQUIRED_OUTPUT
        missing = [name for name in required if name not in {artifact.name for artifact in manifest}]
        if missing:
            return lost(ErrorType.TRAINER_CRASHED, f"the trainer finished without writing {', '.join(missing)}")
        return succeeded(message.result.as_json(), manifest)

    def _store_output(self) -> list[Artifact]:
        self._check_storage()
        manifest = []
        output = self.folder / OUTPUT_FOLDER
        for path in sorted(output.iterdir()) if output.is_dir() else []:
            if not stat.S_ISREG(path.lstat().st_mode):
                self.log.warning("output is not a regular file: left out", name=path.name)
                continue
            self._check_not_lost()
            key = layout.output(self.claim.job_id, self.claim.attempt, path.name)
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self.storage.put_file(key, path)
            manifest.append(Artifact(path.name, key, path.stat().st_size, sha256))
        return manifest

    def _finish(self, attempt_result: AttemptResult) -> None:
        """The one transaction that finishes the attempt."""

        def write(session: Session) -> None:
            # So that the time limit of the next attempt counts all seconds, not only those until the last heartbeat.
            attempts.count_seconds(session, self.claim, self.lease.seconds_used())
            attempt_result.write(session, self.claim)

        with self.tracing.span("finish"):
            self._write_last(write)
        self.log.info("attempt finished", result=attempt_result.name)

    def _remove_spent_checkpoints(self) -> None:
        """Remove the job's checkpoints if it is finished. The trainer's logs stay."""
        try:
            with self.database.session() as session:
                keys = checkpoints.spent(session, self.claim.job_id)
            for key in keys:
                self.storage.delete(key)
        except (SQLAlchemyError, OSError) as failure:
            self.log.warning("checkpoints left to housekeeping", error=first_line(failure))

    def _write(self, action: Callable[[Session], T]) -> T:
        """Write to the ledger; during an outage, retry until the lease is lost.

        Raises Interrupted when the lease is lost, and Stale when another attempt has the job.
        """
        while True:
            self._check_not_lost()
            try:
                return self._transact(action)
            except Exception as failure:
                if not is_outage(failure):
                    raise
                self._pause(failure)

    def _write_last(self, action: Callable[[Session], None]) -> None:
        """Write the result; during an outage, retry also beyond the lease, because the fence decides whether it counts.

        Raises Stale when another attempt has the job, and Interrupted when the worker must stop during an outage.
        """
        while True:
            try:
                with self.lease.closing():
                    self._transact(action)
                    self.lease.closed()
                    return
            except Exception as failure:
                if not is_outage(failure):
                    raise
                self._pause(failure)
            if self.lease.reason is InterruptReason.STALE or self.lease.draining:
                self._check_not_lost()

    def _pause(self, outage: Exception) -> None:
        self.log.warning("ledger out of reach; trying again", error=first_line(outage))
        time.sleep(RETRY_SECONDS)

    def _transact(self, action: Callable[[Session], T]) -> T:
        with self.database.session() as session:
            return action(session)

    def _check_not_lost(self) -> None:
        reason = self.lease.reason
        if reason is not None and reason in FATAL:
            raise Interrupted(reason)

    def _check_storage(self) -> None:
        """Raises OSError when the storage is not mounted: nobody would find files that are stored now."""
        if (fault := storage_fault(self.storage, self.marker)) is not None:
            raise OSError(fault)
