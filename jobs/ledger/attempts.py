"""The worker's side of the ledger: claim a job, keep its lease, record what happens, finish it.

`attempt` is the fencing token. Every write after the claim passes the fence (`_held`): it goes to the row `WHERE id AND
attempt AND state = 'running'`. If there is no such row, another attempt has the job, and Stale is raised.

There are two ways through the fence. `_write` changes what readers see: it locks the row and calls `change`, which
numbers the events, raises the version and notifies. Metrics go into the same transaction. `_update_unseen` changes the
lease and the seconds of training, which readers don't see: one statement, without a new version.

Only the database's clock decides when a lease expires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.orm import Session

from jobs.database.models import Job
from jobs.errors import Stale
from jobs.ids import new_id
from jobs.ledger import metrics as job_metrics
from jobs.ledger import quotas, seats
from jobs.ledger.metrics import Metric
from jobs.ledger.queue import Claimable, Wanted, oldest_queued
from jobs.ledger.stored_specs import Unreadable, read_job_spec
from jobs.ledger.times import seconds_from_now
from jobs.ledger.transitions import Event, change
from jobs.ledger.workers import NO_MORE_THAN_ONE
from jobs.tracking import runs
from jobs.tracking.trackers import Trackers
from lit_spec import Device, ErrorType, JobError, JobSpec
from lit_spec.answers.owners import Quotas
from lit_spec.states import JobState
from lit_spec.trainer.phases import JobPhase

__all__ = [
    "Artifact",
    "Claim",
    "Event",
    "Heartbeat",
    "Metric",
    "cancelled",
    "claim",
    "count_seconds",
    "fail",
    "heartbeat",
    "lose",
    "record",
    "release",
    "succeed",
]


@dataclass(frozen=True)
class Claim:
    """One attempt at a job, with everything that the worker needs to run it."""

    job_id: str
    attempt: int
    owner: str
    spec: JobSpec
    device: str
    """`cpu` or `cuda`: what this attempt trains on."""
    checkpoint: str | None
    """Storage key of the checkpoint to resume from."""
    seconds_used: float
    """Seconds of training in all earlier attempts."""
    fraction: float = 0.0
    """How much of the training earlier attempts did, from 0 to 1; 0 without a checkpoint."""
    study_id: str | None = None
    """The study of which the job is a trial."""
    traceparent: str | None = None
    """The span of the request that made the job."""
    endpoint: str | None = None
    """host:port at which the trainer waits for the other nodes; None for a job of one node."""
    queued_at: datetime | None = None
    """When the job was made, if this is its first attempt."""


@dataclass(frozen=True)
class Heartbeat:
    cancel_requested: bool


@dataclass(frozen=True)
class Artifact:
    """A file of a succeeded job, and the storage key under which it is stored."""

    name: str
    key: str
    size: int
    sha256: str


def claim(
    session: Session,
    worker_id: str,
    devices: Sequence[str],
    spec_versions: Sequence[int],
    lease_seconds: float,
    left_to_others: Sequence[str] = (),
    processes: Mapping[str, int] = NO_MORE_THAN_ONE,
    endpoint: str = "",
    trackers: Trackers = Trackers(),
    defaults: Quotas = quotas.NO_QUOTAS,
) -> Claim | None:
    """Take the oldest queued job that this worker can run and that is not in `left_to_others`. None if there is none.

    Jobs of owners who run as many as they may are passed over, and those of owners of whom another worker just claims
    a job. Nothing here waits for another claim. If only such jobs are left, housekeeping sends the next wake-up.
    `defaults`: the quotas of owners without their own.

    Jobs of older versions are upgraded; those of versions newer than `spec_versions` are left to newer workers. A job
    whose stored specification or `track` this version can't read fails here, so that it does not block the queue.
    `trackers` says where the job's run goes. `processes` says how many processes of one job the worker can run on each
    device. `endpoint` is where the trainer of a job with several nodes would wait for the others: their seats are
    offered here.
    """
    most = {device: processes.get(device, 1) for device in devices}
    asked = {Device.AUTO.value: max(most.values(), default=0), **most}
    claimable = {device: Claimable(max(spec_versions), count) for device, count in asked.items()}
    wanted = Wanted(claimable, left_to_others, quotas.owners_at_limit(session, defaults))
    while (job := oldest_queued(session, wanted)) is not None:
        if not quotas.may_run(session, job.owner, defaults):
            # Another worker has just taken the owner's last place, or is about to, or stands still while it claims.
            wanted = replace(wanted, at_limit={*wanted.at_limit, job.owner})
            continue
        try:
            spec = read_job_spec(job)
            runs.follow(session, job, trackers)
        except Unreadable as wrong:
            _fail_unreadable(session, job, wrong)
        else:
            able = [device for device in devices if spec.devices <= processes.get(device, 1)]
            return _take(session, job, spec, worker_id, able, lease_seconds, endpoint)
    return None


def _fail_unreadable(session: Session, job: Job, wrong: Unreadable) -> None:
    detail = f"{wrong}: send the request again"
    error = JobError(type=ErrorType.BAD_SPECIFICATION, detail=detail).model_dump(mode="json")
    change(session, job, [Event("failed", {"error": error})], error=error, **_finished(JobState.FAILED))


def _take(
    session: Session,
    job: Job,
    spec: JobSpec,
    worker_id: str,
    devices: Sequence[str],
    lease_seconds: float,
    endpoint: str,
) -> Claim:
    device = job.device if job.device != Device.AUTO else _preferred(devices)
    progress = _progress_at_claim(job)
    job.attempt += 1
    change(
        session,
        job,
        [Event("claimed", {"worker": worker_id, "device": device, "resumes": job.checkpoint is not None})],
        state=JobState.RUNNING,
        worker_id=worker_id,
        worker_device=device,
        lease_expires_at=seconds_from_now(lease_seconds),
        progress=progress,
        started_at=func.coalesce(Job.started_at, func.clock_timestamp()),
    )
    if job.nodes > 1:
        seats.offer(session, job, endpoint)
    return Claim(
        job_id=job.id,
        attempt=job.attempt,
        owner=job.owner,
        spec=spec,
        device=device,
        checkpoint=job.checkpoint,
        fraction=progress["fraction"],
        seconds_used=job.seconds_used,
        study_id=job.study_id,
        traceparent=job.traceparent,
        endpoint=endpoint if job.nodes > 1 else None,
        queued_at=job.created_at if job.attempt == 1 else None,
    )


def heartbeat(session: Session, claim: Claim, lease_seconds: float, seconds_used: float) -> Heartbeat:
    """Renew the lease. Raises Stale."""
    cancel_requested_at = _update_unseen(
        session, claim, lease_expires_at=seconds_from_now(lease_seconds), seconds_used=seconds_used
    )
    return Heartbeat(cancel_requested=cancel_requested_at is not None)


def record(
    session: Session,
    claim: Claim,
    events: Sequence[Event],
    metrics: Sequence[Metric],
    progress: dict[str, Any] | None,
    checkpoint: str | None,
    batch: str | None = None,
    *,
    seconds_left: float | None = None,
) -> None:
    """Write what the trainer reported. A `progress` or `checkpoint` of None changes nothing. Raises Stale.

    `seconds_left` belongs to the `progress`: how long the training still takes, None if nobody knows.

    `batch` identifies this call. A worker that did not receive the answer to its commit calls again with the same
    `batch`; the second call changes nothing. Comparing with the newest batch is enough, because an attempt records its
    batches one after another.
    """
    batch = batch or new_id("bat")
    job = _hold(session, claim)
    if job.batch == batch:
        return
    values: dict[str, Any] = {"batch": batch}
    if progress is not None:
        values["progress"] = progress
        values["estimated_finish"] = None if seconds_left is None else seconds_from_now(seconds_left)
    if checkpoint is not None:
        values["checkpoint"] = checkpoint
    change(session, job, events, **values)
    job_metrics.write(session, claim.job_id, claim.attempt, metrics)


def count_seconds(session: Session, claim: Claim, seconds_used: float) -> None:
    """Write the seconds of training over all attempts. The caller then finishes the attempt in the same transaction.

    Raises Stale.
    """
    _update_unseen(session, claim, seconds_used=seconds_used)


def succeed(session: Session, claim: Claim, result: dict[str, Any], manifest: Sequence[Artifact]) -> None:
    """Finish the job with its result and its files. Only files in the manifest can be downloaded. Raises Stale."""
    files = [asdict(artifact) for artifact in manifest]
    event = Event("succeeded", {"accepted": result.get("accepted")})
    stored = {"manifest": files, "stored_bytes": sum(artifact.size for artifact in manifest)}
    _write(session, claim, [event], **_finished(JobState.SUCCEEDED), result=result, **stored)


def fail(session: Session, claim: Claim, error: JobError) -> None:
    """Finish the job with an error that another attempt would also meet. Raises Stale."""
    data = error.model_dump(mode="json")
    _write(session, claim, [Event("failed", {"error": data})], **_finished(JobState.FAILED), error=data)


def cancelled(session: Session, claim: Claim) -> None:
    """Finish the job as cancelled, because its owner asked for it. Raises Stale."""
    _write(session, claim, [Event("cancelled")], **_finished(JobState.CANCELLED))


def release(session: Session, claim: Claim, reason: str = "the worker was told to stop") -> None:
    """Give the job back to the queue without counting a failure. Raises Stale."""
    job = _hold(session, claim)
    if job.cancel_requested_at is not None:
        change(session, job, [Event("cancelled")], **_finished(JobState.CANCELLED))
        return
    change(session, job, [Event("released", {"worker": job.worker_id, "reason": reason})], **_QUEUED)


def lose(session: Session, claim: Claim, error: JobError) -> None:
    """Count a failure. The job is queued again, or fails with `error` if it has used up its attempts. Raises Stale."""
    lose_locked(session, _hold(session, claim), error)


def lose_locked(session: Session, job: Job, error: JobError) -> None:
    """Like `lose`, for a running job whose row the caller has locked."""
    data = error.model_dump(mode="json")
    failures = job.failures + 1
    lost = Event("lost", {"error": data, "failures": failures, "max_attempts": job.max_attempts})
    if job.cancel_requested_at is not None:
        change(session, job, [lost, Event("cancelled")], failures=failures, **_finished(JobState.CANCELLED))
    elif failures >= job.max_attempts:
        failed = Event("failed", {"error": data})
        change(session, job, [lost, failed], failures=failures, error=data, **_finished(JobState.FAILED))
    else:
        change(session, job, [lost], failures=failures, **_QUEUED)


_QUEUED: dict[str, Any] = {
    "state": JobState.QUEUED,
    "worker_id": None,
    "worker_device": None,
    "lease_expires_at": None,
    "estimated_finish": None,
}


def _finished(state: JobState) -> dict[str, Any]:
    return {
        "state": state,
        "lease_expires_at": None,
        "estimated_finish": None,
        "finished_at": func.clock_timestamp(),
    }


def _held(claim: Claim) -> ColumnElement[bool]:
    """The fence: a condition that the job's row meets as long as this attempt has the job."""
    return and_(Job.id == claim.job_id, Job.attempt == claim.attempt, Job.state == JobState.RUNNING)


def _hold(session: Session, claim: Claim) -> Job:
    """Lock the job's row until the transaction ends, and return the job. Raises Stale."""
    query = select(Job).where(_held(claim)).with_for_update()
    job = session.scalars(query, execution_options={"populate_existing": True}).one_or_none()
    if job is None:
        raise Stale
    return job


def _write(session: Session, claim: Claim, events: Sequence[Event], **values: Any) -> None:
    """Change what readers see. Raises Stale."""
    change(session, _hold(session, claim), events, **values)


def _update_unseen(session: Session, claim: Claim, **values: Any) -> datetime | None:
    """Change what no reader sees, in one statement; returns when a cancel was requested. Raises Stale."""
    statement = update(Job).where(_held(claim)).values(**values).returning(Job.cancel_requested_at)
    row = session.execute(statement, execution_options={"synchronize_session": False}).one_or_none()
    if row is None:
        raise Stale
    cancel_requested_at: datetime | None = row.cancel_requested_at
    return cancel_requested_at


def _progress_at_claim(job: Job) -> dict[str, Any]:
    """An attempt that resumes from a checkpoint keeps the fraction that was reached before."""
    reached = (job.progress or {}).get("fraction", 0.0) if job.checkpoint is not None else 0.0
    return {"phase": JobPhase.CLAIMED.value, "epoch": 0, "epochs": 0, "step": None, "steps": None, "fraction": reached}


def _preferred(devices: Sequence[str]) -> str:
    return Device.CUDA.value if Device.CUDA in devices else devices[0]
