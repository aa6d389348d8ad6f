"""Jobs as their owner sees them: read, list, cancel, delete; their events and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete as sql_delete
from sqlalchemy import select, union_all
from sqlalchemy.orm import Session

from jobs.database.connection import clock
from jobs.database.models import Event as EventRow
from jobs.database.models import Job, Seat, Study, Worker
from jobs.errors import Conflict
from jobs.ledger import queue, quotas, workers
from jobs.ledger.owned_rows import PageCursor, find_owned, labelled_page
from jobs.ledger.queue import Claimable, Wanted
from jobs.ledger.stamps import STAMP, StampedJob
from jobs.ledger.transitions import Event, change
from jobs.storage import layout
from jobs.tracking import runs
from lit_spec import Device
from lit_spec.answers.owners import Quotas
from lit_spec.states import JobState, StudyState


@dataclass(frozen=True)
class WaitingReason:
    """Why a queued job does not run yet."""

    reason: str
    """`position`: others are before it; `no-worker`: no live worker can run it; `quota`: as many jobs of its owner run
    as are allowed; `starting`: it is next."""
    position: int
    """1 for the job that such a worker claims next."""
    detail: str
    at_least: bool = False
    """Whether the true position may be larger, because not all earlier jobs were counted."""


def get(session: Session, owner: str, job_id: str, *, lock: bool = False) -> Job:
    """`lock` keeps the job as it is until this transaction ends. Raises NotFound, for another owner's job too."""
    return find_owned(session, Job, owner, job_id, lock=lock)


def list_page(
    session: Session,
    owner: str,
    *,
    state: str | None = None,
    tag: str | None = None,
    name: str | None = None,
    study_id: str | None = None,
    after: PageCursor | None = None,
    limit: int = 50,
) -> list[StampedJob]:
    """The places of the owner's jobs in the list, newest first, with their stamps."""
    of_study = [] if study_id is None else [Job.study_id == study_id]
    query = select(Job.created_at, Job.id, STAMP)
    page = labelled_page(query, Job, owner, state=state, tag=tag, name=name, filters=of_study, after=after, limit=limit)
    return [StampedJob(*row) for row in session.execute(page)]


def find_listed(session: Session, job_ids: Sequence[str]) -> Sequence[Job]:
    """Those of these jobs, which were listed before, that are still there."""
    return session.scalars(select(Job).where(Job.id.in_(job_ids))).all()


def request_cancel(session: Session, owner: str, job_id: str) -> Job:
    """Ask for a job to be cancelled: a queued job at once, a running one at its worker's next heartbeat.

    Asking again changes nothing. Raises NotFound, and Conflict `job-finished` if it succeeded or failed.
    """
    job = find_owned(session, Job, owner, job_id, lock=True)
    if JobState(job.state).finished and job.state != JobState.CANCELLED:
        raise Conflict(
            "job-finished", f"job {job_id} has already {_FINISHED_HOW[JobState(job.state)]} and can't be cancelled"
        )
    cancel_locked(session, job)
    return job


def cancel_locked(session: Session, job: Job, stopped: str | None = None) -> None:
    """Like `request_cancel`, for a job whose row the caller has locked. `stopped`: why its study stops it."""
    data = {} if stopped is None else {"stopped": stopped}
    if job.state == JobState.QUEUED:
        now = clock(session)
        cancelled = {"state": JobState.CANCELLED, "cancel_requested_at": now, "finished_at": now}
        change(session, job, [Event("cancelled", data)], **cancelled, trial_stopped=stopped)
    elif job.state == JobState.RUNNING and job.cancel_requested_at is None:
        now = clock(session)
        change(session, job, [Event("cancel_requested", data)], cancel_requested_at=now, trial_stopped=stopped)


def delete(session: Session, owner: str, job_id: str) -> str:
    """Remove a job with its events and metrics; returns the prefix of its files in storage, which the caller removes.

    Raises NotFound, Conflict `job-not-finished` while it is queued or running, and Conflict `study-not-finished` while
    its study is running.
    """
    job = find_owned(session, Job, owner, job_id, delete=True)
    if not JobState(job.state).finished:
        raise Conflict(
            "job-not-finished", f"job {job_id} is {job.state}: cancel it first, or wait until it has finished"
        )
    running = select(Study.id).where(Study.id == job.study_id, Study.state == StudyState.RUNNING)
    if session.scalars(running).one_or_none() is not None:
        detail = f"job {job_id} is a trial of {job.study_id}, which is still running: cancel the study first"
        raise Conflict("study-not-finished", detail)
    session.execute(sql_delete(Job).where(Job.id == job_id))
    runs.forget_complete(session, [job_id])
    return layout.job_prefix(job_id)


def waiting_reason(session: Session, job: Job, defaults: Quotas = quotas.NO_QUOTAS) -> WaitingReason | None:
    """Why a queued job waits; None for any other. `defaults`: the quotas of owners without their own."""
    if job.state != JobState.QUEUED:
        return None
    live = workers.live(session)
    able = [worker for worker in live if _has_device(worker, job) and job.spec_version <= _newest_version(worker)]
    at_limit = quotas.owners_at_limit(session, defaults)
    wanted = Wanted(_claimed_before(job, able), at_limit=at_limit - {job.owner})
    before = queue.jobs_before(session, job, wanted)
    position, at_least = 1 + before.counted, not before.complete
    if not able:
        return WaitingReason("no-worker", position, _why_no_worker(live, job), at_least)
    if job.owner in at_limit:
        allowed = quotas.effective(session, job.owner, defaults).jobs_running
        detail = f"{job.owner} runs as many jobs at once as are allowed: {allowed}"
        return WaitingReason("quota", position, detail, at_least)
    # From the jobs' rows: a worker's registration names its job only some seconds later.
    holders = select(Job.worker_id).where(Job.state == JobState.RUNNING)
    joined = select(Seat.worker_id).where(Seat.lease_expires_at.is_not(None))
    busy = len({worker.id for worker in able} & set(session.scalars(union_all(holders, joined))))
    if position == 1 and not at_least and busy < len(able):
        return WaitingReason("starting", position, "a worker is about to take it")
    what = "1 worker" if len(able) == 1 else f"{len(able)} workers"
    place = f"behind at least {before.counted:,} jobs" if at_least else f"number {position:,} in the queue"
    return WaitingReason("position", position, f"{place} for {what}, of which {busy} busy", at_least)


def _claimed_before(job: Job, able: Sequence[Worker]) -> dict[str, Claimable]:
    """By the device that they ask for, which earlier jobs a worker that can run `job` claims first. If no worker can
    run it: those that any worker for it would claim.
    """
    if not able:
        devices = [device.value for device in Device] if job.device == Device.AUTO else [Device.AUTO.value, job.device]
        return dict.fromkeys(devices, Claimable(job.spec_version, job.devices))
    claimable: dict[str, Claimable] = {}
    for worker in able:
        most = {device: workers.most_processes(worker, device) for device in worker.devices}
        for device, count in {Device.AUTO.value: max(most.values()), **most}.items():
            known = claimable.get(device, Claimable(0, 0))
            newest = max(known.newest_version, _newest_version(worker))
            claimable[device] = Claimable(newest, max(known.devices, count))
    return claimable


def _why_no_worker(live: Sequence[Worker], job: Job) -> str:
    if any(_has_device(worker, job) for worker in live):
        return (
            f"no live worker reads version {job.spec_version} of the specification: start workers of a newer version "
            "of LIT"
        )
    if job.devices > 1:
        device = "one device" if job.device == Device.AUTO else job.device
        return (
            f"no live worker can run {job.devices} processes of a job on {device}: lower devices, or start a worker on "
            "a larger machine"
        )
    return f"no live worker has the device {job.device}: start one with `litc worker`"


def _has_device(worker: Worker, job: Job) -> bool:
    """Whether the worker has a device that the job may run on, with as many processes as it wants."""
    devices = worker.devices if job.device == Device.AUTO else {job.device} & set(worker.devices)
    return any(job.devices <= workers.most_processes(worker, device) for device in devices)


def _newest_version(worker: Worker) -> int:
    """Of the versions of specifications that the worker reads."""
    return max(worker.spec_versions)


def events_after(session: Session, job_id: str, after: int, limit: int) -> list[EventRow]:
    """The events with numbers above `after`, in order."""
    query = select(EventRow).where(EventRow.job_id == job_id, EventRow.seq > after)
    return list(session.scalars(query.order_by(EventRow.seq).limit(limit)))


_FINISHED_HOW = {JobState.SUCCEEDED: "succeeded", JobState.FAILED: "failed", JobState.CANCELLED: "been cancelled"}
