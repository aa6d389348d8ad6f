"""The possible results of an attempt, and what each writes to the ledger."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from jobs.database.models import Upload
from jobs.ledger import attempts
from jobs.ledger.attempts import Artifact, Claim
from lit_spec import ErrorType, JobError
from lit_spec.states import UploadState
from lit_spec.trainer.folder import SIGNALLED, TrainerExit
from worker.host.full_disks import work_disk_fault
from worker.training.job_folder import UploadMissing

MAY_FOLLOW_ANOTHER_END = (TrainerExit.FAILED, SIGNALLED + signal.SIGABRT)
"""Exit codes of ranks that could not go on, perhaps because those of another node have ended. NCCL aborts them."""


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt came out: a name for logs, and the function that records it in the ledger."""

    name: str
    write: Callable[[Session, Claim], None]
    fault: str | None = None
    """What is wrong with this worker, if that is why the attempt failed."""
    left_to_others: bool = False
    """Whether this worker should do other jobs first."""


def _write_nothing(_session: Session, _claim: Claim) -> None:
    """The job no longer belongs to this attempt."""


CANCELLED = AttemptResult("cancelled", attempts.cancelled)
RELEASED = AttemptResult("released", attempts.release)
OTHER_DRAINED = AttemptResult("released", partial(attempts.release, reason="a worker that had joined was told to stop"))
WAITS_FOR_OLDER = AttemptResult(
    "released", partial(attempts.release, reason="the worker joins an older job first"), left_to_others=True
)
STALE = AttemptResult("stale", _write_nothing)


def expired(cut_off: Callable[[], bool]) -> AttemptResult:
    """The lease expired. As long as nobody has taken the job back, it can go back: without a failure if `cut_off()`.

    That is asked with each write, because an outage may show itself only then.
    """
    reason = "the ledger was out of reach, or the worker suspended, for longer than the lease"
    detail = "the worker could not renew its lease in time although the ledger could be reached: it had too much to do"
    failure = JobError(type=ErrorType.WORKER_LOST, detail=detail)

    def write(session: Session, claim: Claim) -> None:
        if cut_off():
            attempts.release(session, claim, reason)
        else:
            attempts.lose(session, claim, failure)

    return AttemptResult("expired", write)


def succeeded(result: dict[str, Any], manifest: Sequence[Artifact]) -> AttemptResult:
    return AttemptResult("succeeded", lambda session, claim: attempts.succeed(session, claim, result, manifest))


def failed(error: JobError) -> AttemptResult:
    """The job fails, and is not tried again."""
    return AttemptResult("failed", lambda session, claim: attempts.fail(session, claim, error))


def lost(error: ErrorType, detail: str, *, field: str | None = None, fault: str | None = None) -> AttemptResult:
    """This attempt failed. The job is tried again if it has attempts left."""
    failure = JobError(type=error, detail=detail[:2000].replace("\0", ""), field=field)
    return AttemptResult("lost", lambda session, claim: attempts.lose(session, claim, failure), fault)


def too_few_workers(came: int, nodes: int, seconds: float) -> AttemptResult:
    """Not all workers of a job with several nodes came."""
    detail = (
        f"only {came} of the {nodes} workers that the job wants came together within {seconds:g} s: lower nodes, or "
        "ask the operator for more workers that run its devices"
    )
    return replace(lost(ErrorType.TOO_FEW_WORKERS, detail, field="nodes"), left_to_others=True)


def unfit(fault: str) -> AttemptResult:
    """Something is wrong with this worker. The job goes back to the queue, and no failure is counted."""
    return AttemptResult("released", lambda session, claim: attempts.release(session, claim, fault), fault)


def upload_missing(missing: UploadMissing, upload: Upload | None, storage_fault: str | None) -> AttemptResult:
    """Storage did not have an input, whose row in the ledger is `upload`."""
    if storage_fault is not None:
        return unfit(storage_fault)
    if upload is None:
        return failed(missing.error)
    if upload.state != UploadState.COMPLETE:
        detail = f"{upload.id} has only {upload.received} of its {upload.size} bytes: finish the upload"
        return lost(missing.error.type, detail, field=missing.error.field)
    fault = f"storage lacks bytes of the upload {upload.id}, which the ledger has: if they are lost, upload it again"
    return lost(ErrorType.WORKER_LOST, fault, field=missing.error.field, fault=fault)


def trainer_failed(error: JobError) -> AttemptResult:
    """The trainer reported an error. Another attempt would too, unless this worker's device has a fault."""
    if error.type is ErrorType.DEVICE_UNAVAILABLE:
        return lost(error.type, error.detail, field=error.field, fault=error.detail)
    return failed(error)


def crashed(code: int, last_line: str, folder: Path) -> AttemptResult:
    """The trainer in the job folder `folder` ended without saying why."""
    if code == TrainerExit.DEADLINE:
        return lost(ErrorType.WORKER_LOST, "the trainer was suspended until its deadline had passed")
    if (fault := work_disk_fault(folder)) is not None:
        return _filled_disk(fault, folder)
    return lost(ErrorType.TRAINER_CRASHED, describe_exit(code, last_line))


def _filled_disk(fault: str, folder: Path) -> AttemptResult:
    """If the disk has room once the job folder is gone, it was the job that filled it."""
    shutil.rmtree(folder, ignore_errors=True)
    if work_disk_fault(folder.parent) is not None:
        return unfit(fault)
    detail = (
        "the job filled the disk of its worker: use a smaller teacher or data set, or ask its operator for more "
        "space in the worker's data folder"
    )
    return lost(ErrorType.DISK_LIMIT, detail, fault=detail)


def describe_exit(code: int, last_line: str) -> str:
    """Why a trainer ended without saying so, as a sentence."""
    log_end = f"; its log ends with: {last_line}" if last_line else ""
    if code == -signal.SIGKILL:
        return f"the trainer was killed (SIGKILL), perhaps because the machine ran out of memory{log_end}"
    if code < 0:
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
        return f"the trainer was ended by {name}{log_end}"
    if code == 0:
        return f"the trainer ended without finishing{log_end}"
    return f"the trainer ended with exit code {code}{log_end}"
