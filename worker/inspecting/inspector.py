"""Inspections: a sandboxed subprocess reads an upload. A teacher is then stored as safetensors.

The inspecting worker is a separate process beside the training worker, so no inspection waits for a training.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import ValidationError
from sqlalchemy.orm import Session

from jobs.backoff import Backoff
from jobs.database import jsonb
from jobs.database.connection import Database
from jobs.database.models import Upload
from jobs.database.outages import first_line, is_outage
from jobs.ledger import uploads
from jobs.settings import Settings
from jobs.side_task import SideTask
from jobs.storage import layout, removals
from jobs.storage.marker import storage_fault
from jobs.storage.storage import Storage, StorageKeyMissing
from lit_spec import DatasetInspection, ErrorType, Inspection, JobError
from lit_spec.states import UploadKind
from lit_spec.trainer.folder import INSPECTION_FILE, TEACHER_FILE, TrainerExit
from worker.host.checkout import CHECKOUT
from worker.host.children import Check, Child, Start, execute, no_check
from worker.host.fetching import fetch
from worker.host.full_disks import storing_fault
from worker.host.work_folder import WorkFolder
from worker.inspecting.metrics import InspectionMetrics

INSPECT = (sys.executable, "-m", "lit_core.trainer.inspect")
BOUND = (sys.executable, "-m", "worker.host.parent_death")
"""A prefix of the command: it ends the inspection when the worker is killed."""
LOOK_SECONDS = 5.0
"""Longest time between two looks into the ledger. A notification causes a look at once."""
RETRY_SECONDS = 1.0
"""Pause after a failure of the ledger."""
DRAIN_SECONDS = 10.0
"""How long an inspection may take to finish after `stop`, before it is given back."""
ANSWER_BYTES = 64 << 10
INSPECTION_BYTES = 16 << 20
"""Larger results are refused, because each answer about the upload would have them."""

log = structlog.get_logger()

InspectionT = TypeVar("InspectionT", Inspection, DatasetInspection)


class Refused(Exception):
    """The upload can't be used; `error` says why."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.detail)
        self.error = error


class LimitReached(Exception):
    """The inspection needed more time or memory than it may use; the message says which."""


class Unfit(Exception):
    """Something is wrong with this worker, not with the upload."""


class Stopped(Exception):
    """The inspection was interrupted because the worker stops."""


def execute_bound(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    check: Check = no_check,
) -> Child:
    """Like `execute`; the command is killed when this process dies."""
    bound = [*BOUND, str(os.getpid()), *command]
    return execute(bound, folder, environment, stdin=stdin, stdout=stdout, stderr=stderr, check=check)


class Inspector:
    """A side task that claims and runs inspections, one at a time.

    `command` reads FILE and writes to FOLDER; `start` starts it, and ends it when this process is killed.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        settings: Settings,
        work_folder: WorkFolder,
        *,
        marker: str,
        command: Sequence[str] = INSPECT,
        start: Start = execute_bound,
        metrics: InspectionMetrics | None = None,
    ) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._work_folder = work_folder
        self._marker = marker
        self._backoff = Backoff()
        self._command = command
        self._start = start
        self._metrics = metrics or InspectionMetrics()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._task = SideTask("inspector", self._serve)

    def start(self) -> None:
        self._task.start()

    def wake(self) -> None:
        """Look for inspections now."""
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing new. The running inspection is given back unless it finishes soon."""
        self._stopped.set()
        self._wake.set()
        self._task.stop(DRAIN_SECONDS + 5)

    def _serve(self, _: threading.Event) -> None:
        while not self._stopped.is_set():
            # Before the look into the ledger, so that a wake-up during the look is not lost.
            self._wake.clear()
            try:
                while not self._stopped.is_set() and self.inspect_one():
                    pass
            except Exception as failure:
                if not is_outage(failure):
                    raise
                log.warning("ledger out of reach", error=first_line(failure))
                self._stopped.wait(RETRY_SECONDS)
            else:
                if not self._stopped.is_set():
                    self._wake.wait(LOOK_SECONDS)

    def inspect_one(self) -> bool:
        """Claim one inspection and run it. False if none waits, or if the worker stops."""
        with self._database.session() as session:
            upload = uploads.claim_inspection(session, self._settings.inspect_timeout_seconds * 2)
        if upload is None:
            return False
        bound = log.bind(upload=upload.id)
        started = time.monotonic()
        inspection: Inspection | DatasetInspection | None = None
        error: JobError | None = None
        try:
            inspection = self._inspect(upload)
        except Refused as refused:
            error = refused.error
        except Stopped:
            bound.info("inspection interrupted")
            self._count(upload, "given-back")
            self._give_back(lambda session: uploads.release_inspection(session, upload))
            return False
        except Unfit as unfit:
            self._count(upload, "given-back")
            self._give_back(lambda session: uploads.release_inspection(session, upload))
            self._recover(str(unfit))
            return True
        except Exception as failure:  # noqa: BLE001 - logged with its traceback, and the inspection is given back
            bound.exception("the worker failed at an inspection")
            self._count(upload, "given-back")
            lost = worker_lost(failure)
            self._give_back(lambda session: uploads.lose_inspection(session, upload, lost))
            self._recover(lost.detail)
            return True
        self._backoff.reset()
        self._finish(upload, inspection, error)
        seconds = time.monotonic() - started
        self._count(upload, "done" if error is None else "refused")
        self._metrics.seconds.labels(upload.kind).observe(seconds)
        bound.info("inspected", error=error and error.detail, seconds=round(seconds, 2))
        return True

    def _count(self, upload: Upload, result: str) -> None:
        self._metrics.inspections.labels(upload.kind, result).inc()

    def _give_back(self, write: Callable[[Session], None]) -> None:
        try:
            with self._database.session() as session:
                write(session)
        except Exception:
            # Without this write the inspection is claimed again after its time limit.
            log.exception("inspection not given back")

    def _recover(self, fault: str | None) -> None:
        """Claim nothing for a while, and continue to pause as long as the storage or a disk has a fault."""
        self._metrics.ready.set(0)
        while fault is not None and not self._stopped.is_set():
            seconds = self._backoff.next()
            log.error("this worker has a fault and inspects nothing for a while", fault=fault, seconds=seconds)
            self._stopped.wait(seconds)
            fault = storing_fault(self._storage, self._marker, self._work_folder.path)
        self._metrics.ready.set(1)

    def _finish(
        self, upload: Upload, inspection: Inspection | DatasetInspection | None, error: JobError | None
    ) -> None:
        """Write the result. Retries during an outage, because the work is done and nobody else has its result."""
        prefix = layout.upload_prefix(upload.id)
        while True:
            try:
                with self._database.session() as session:
                    kept = uploads.finish_inspection(
                        session,
                        upload.id,
                        inspection=inspection,
                        error=error,
                        architecture=upload.architecture,
                        teacher_weights=upload.teacher_weights,
                    )
                    if not kept:
                        # The upload may have been deleted before its teacher was stored.
                        removals.record(session, prefix, removals.SETTLING_SECONDS)
                break
            except Exception as failure:
                if not is_outage(failure) or self._stopped.is_set():
                    raise
                self._stopped.wait(RETRY_SECONDS)
        if not kept:
            removals.remove_now(self._storage, [prefix])

    def _inspect(self, upload: Upload) -> Inspection | DatasetInspection:
        kind = UploadKind(upload.kind)
        with self._work_folder.temporary_folder(upload.id) as folder:
            source, output = folder / "data", folder / "output"
            output.mkdir()
            try:
                fetch(self._storage, layout.upload_data(upload.id), source, self._check, upload.size)
            except StorageKeyMissing as missing:
                if (fault := storage_fault(self._storage, self._marker)) is not None:
                    raise Unfit(fault) from missing
                raise refused(kind, "the upload is no longer in storage: upload it again") from missing
            answer, architecture = folder / "answer", None
            if upload.architecture is not None:
                architecture = folder / "architecture.json"
                architecture.write_text(json.dumps(upload.architecture))
            try:
                code = self._run(kind, source, output, answer, architecture, upload.teacher_weights)
            except LimitReached as limit:
                if kind is UploadKind.DATASET:
                    return DatasetInspection.not_read(str(limit))
                raise refused(kind, str(limit)) from limit
            if code == TrainerExit.FAILED:
                raise Refused(_answer(kind, answer))
            if code != TrainerExit.DONE:
                raise refused(kind, f"the file could not be read: reading it ended with {_describe(code)}")
            if kind is UploadKind.DATASET:
                return _read(kind, DatasetInspection, output)
            inspection, teacher = _read(kind, Inspection, output), output / TEACHER_FILE
            _check_regular(kind, teacher)
            if (fault := storage_fault(self._storage, self._marker)) is not None:
                raise Unfit(fault)
            sha256 = _sha256_of(teacher)
            self._storage.put_file(layout.inspected_teacher(upload.id, sha256), teacher)
            return inspection.model_copy(update={"sha256": sha256})

    def _run(
        self,
        kind: UploadKind,
        source: Path,
        output: Path,
        answer: Path,
        architecture: Path | None,
        weights: str | None,
    ) -> int:
        """Run the sandboxed process and return its exit code. It gets no secrets. Its group is killed at the end.

        Raises LimitReached.
        """
        seconds = self._settings.inspect_timeout_seconds
        limits = ["--kind", kind, "--memory", str(self._settings.inspect_memory_bytes), "--cpu", str(int(seconds) + 1)]
        if architecture is not None:
            limits += ["--architecture", str(architecture)]
        if weights is not None:
            limits += ["--weights", weights]
        command = [*self._command, str(source), str(output), *limits]
        with answer.open("wb") as stdout, Path(os.devnull).open("r+b") as nothing:
            process = self._start(
                command,
                output,
                inspection_environment(output),
                stdin=nothing.fileno(),
                stdout=stdout.fileno(),
                stderr=nothing.fileno(),
                check=self._check,
            )
        try:
            code = self._wait(process, time.monotonic() + seconds, builds_network=architecture is not None)
        finally:
            process.end()
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            raise LimitReached(
                "the file could not be read: reading it took more time or memory than an inspection may use"
            )
        return code

    def _wait(self, process: Child, until: float, *, builds_network: bool) -> int:
        """Wait for the exit code."""
        drained_at: float | None = None
        while True:
            if (code := process.exit_code()) is not None:
                return code
            now = time.monotonic()
            if now > until:
                seconds = self._settings.inspect_timeout_seconds
                also = " and building the network that its architecture names" if builds_network else ""
                raise LimitReached(f"reading the file{also} took longer than {seconds:g} s")
            if self._stopped.is_set():
                drained_at = drained_at or now
                if now - drained_at > DRAIN_SECONDS:
                    raise Stopped
            time.sleep(0.02)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Stopped


def inspection_environment(folder: Path) -> dict[str, str]:
    """The environment variables of the sandboxed process: no secrets."""
    own = {
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONSAFEPATH": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        # As for the trainer.
        "OMP_WAIT_POLICY": "passive",
    }
    # Where it is set, the code may lie where nothing can be written.
    name = "PYTHONDONTWRITEBYTECODE"
    return own | ({name: os.environ[name]} if name in os.environ else {})


def refused(kind: UploadKind, detail: str) -> Refused:
    if kind is UploadKind.DATASET:
        return Refused(JobError(type=ErrorType.BAD_DATASET, detail=detail, field="dataset.upload"))
    return Refused(JobError(type=ErrorType.BAD_TEACHER, detail=detail, field="teacher"))


def worker_lost(failure: Exception) -> JobError:
    detail = f"the worker could not inspect the file ({failure!r}): repair the worker, then upload the file again"
    return JobError(type=ErrorType.WORKER_LOST, detail=detail[:2000].replace("\0", ""))


def _read(kind: UploadKind, model: type[InspectionT], output: Path) -> InspectionT:
    """What the sandboxed process wrote. Raises Refused if it is missing or wrong."""
    try:
        if (output / INSPECTION_FILE).stat().st_size > INSPECTION_BYTES:
            raise ValueError(f"more than {INSPECTION_BYTES} bytes")
        inspection = model.model_validate_json((output / INSPECTION_FILE).read_bytes())
        jsonb.check(inspection.model_dump(mode="json"))
    except (OSError, ValueError) as failure:
        raise refused(kind, "the file could not be read: its inspection gave no result") from failure
    return inspection


def _check_regular(kind: UploadKind, teacher: Path) -> None:
    """Whether the teacher is a file: a link could point to another owner's. Raises Refused."""
    try:
        regular = stat.S_ISREG(teacher.lstat().st_mode)
    except OSError as failure:
        raise refused(kind, "the file could not be read: its inspection gave no result") from failure
    if not regular:
        raise refused(kind, "the file could not be read: its inspection gave no teacher")


def _sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _answer(kind: UploadKind, path: Path) -> JobError:
    """The error that the sandboxed process reported. It is checked, because the process read an untrusted file."""
    with path.open("rb") as file:
        lines = file.read(ANSWER_BYTES).splitlines()
    try:
        error = JobError.model_validate_json(lines[-1])
    except (IndexError, ValidationError):
        return refused(kind, "the file could not be read").error
    return error.model_copy(update={"detail": error.detail.replace("\0", "")})


def _describe(code: int) -> str:
    return f"{'signal' if code < 0 else 'exit code'} {abs(code)}"
