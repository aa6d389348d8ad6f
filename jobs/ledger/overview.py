"""The ledger in numbers, over all owners: for monitoring. What is asked for often is answered from small indexes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, literal_column, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from jobs.database.models import LIFECYCLE, Event, Job, OwnerBytes, Study, Upload, WebhookDelivery
from jobs.ledger import workers
from lit_spec import Device
from lit_spec.states import DeliveryState, InspectionState, JobState, StudyState, UploadKind

DEVICES = (Device.CPU.value, Device.CUDA.value)
"""What a worker has."""
ASKED_DEVICES = tuple(device.value for device in Device)
"""What a job asks for."""
MOST_MESSAGES = 10_000
"""More messages that wait are not counted."""
TOTALS_TIMEOUT_MS = 5000
"""`totals` reads whole tables; it is given up when it would burden the database for longer."""


@dataclass(frozen=True)
class Backlog:
    """What waits."""

    count: int = 0
    oldest_seconds: float = 0.0
    """Since when the oldest waits; 0 if nothing waits."""


@dataclass(frozen=True)
class Overview:
    """What goes on now."""

    queued: dict[str, Backlog]
    """By the device that jobs ask for. The age is that of the oldest job which was never claimed."""
    running: dict[str, int]
    """By the device of the worker."""
    queued_nodes: dict[str, int]
    """The workers that the queued jobs want: the sum of their nodes."""
    running_nodes: dict[str, int]
    expired: int
    """Running jobs whose lease has expired, and which nobody has taken back yet."""
    workers: dict[str, int]
    """Live training workers, by device. A worker with two devices counts for both."""
    inspections: dict[str, Backlog]
    """Uploads that wait for their inspection, by kind."""
    messages: Backlog
    """Messages for enabled webhooks that wait for an attempt, at most MOST_MESSAGES of them. The age is that of the
    longest due one; what waits for its next attempt is not due."""


@dataclass(frozen=True)
class Totals:
    """What has come together since the service began, without what was deleted."""

    studies: dict[str, int]
    """By state."""
    uploads: dict[tuple[str, str], int]
    """By kind and state."""
    upload_bytes: dict[str, int]
    """Bytes that have arrived, by kind."""
    output_bytes: int
    """Bytes of the files that succeeded jobs offer for download."""
    messages: dict[str, int]
    """Messages for webhooks that were delivered or given up, by state."""


@dataclass(frozen=True)
class LifecycleEvent:
    """An event that changed the state of a job."""

    job_id: str
    seq: int
    type: str
    at: datetime
    error: str | None
    """The type of the error, in `lost` and `failed`."""
    asked_device: str
    """The device that the job asks for."""
    claimed_device: str | None
    """In `claimed`: the device of the worker that claimed it."""
    worker_device: str | None
    """The device of the job's newest worker; None while the job is in the queue."""
    waited_seconds: float | None
    """From the creation of the job to its first claim, in that claim's event."""
    ran_seconds: float | None
    """From the first claim to the end, in events that end the job."""


def overview(session: Session) -> Overview:
    now = func.statement_timestamp()
    queued = _counts(session, Job.device, ASKED_DEVICES, literal_column("'queued'"))
    running = _counts(session, Job.worker_device, DEVICES, literal_column("'running'"))
    return Overview(
        queued={device: Backlog(count.jobs, _queued_for(session, device)) for device, count in queued.items()},
        running={device: count.jobs for device, count in running.items()},
        queued_nodes={device: count.nodes for device, count in queued.items()},
        running_nodes={device: count.nodes for device, count in running.items()},
        expired=session.scalars(
            select(func.count(Job.id)).where(Job.state == JobState.RUNNING, Job.lease_expires_at < now)
        ).one(),
        workers=_workers(session),
        inspections=_inspections(session),
        messages=_messages(session),
    )


def totals(session: Session) -> Totals:
    """Reads whole tables, so it is not for every scrape. Gives up after TOTALS_TIMEOUT_MS with OperationalError."""
    session.execute(text(f"SET LOCAL statement_timeout = {TOTALS_TIMEOUT_MS}"))
    studies = session.execute(select(Study.state, func.count()).group_by(Study.state)).all()
    uploads = session.execute(
        select(Upload.kind, Upload.state, func.count(), func.sum(Upload.received)).group_by(Upload.kind, Upload.state)
    ).all()
    # What owners store is known without the jobs: it is their uploads and the files of their jobs.
    stored = select(func.coalesce(func.sum(OwnerBytes.bytes), 0)).scalar_subquery()
    output_bytes = session.scalars(select(stored - func.coalesce(func.sum(Upload.size), 0))).one()
    messages = (
        select(WebhookDelivery.state, func.count())
        .where(WebhookDelivery.state.in_(_SETTLED))
        .group_by(WebhookDelivery.state)
    )
    return Totals(
        studies={state.value: 0 for state in StudyState} | {row[0]: row[1] for row in studies},
        uploads={(kind, state): count for kind, state, count, _ in uploads},
        upload_bytes={
            kind.value: sum(int(received) for found, _, _, received in uploads if found == kind) for kind in UploadKind
        },
        output_bytes=int(output_bytes),
        messages=dict.fromkeys(_SETTLED, 0) | {row[0]: row[1] for row in session.execute(messages)},
    )


def lifecycle_events(session: Session, since: datetime) -> list[LifecycleEvent]:
    """The events of all jobs that changed a job's state since then."""
    waited = func.extract("epoch", Event.created_at - Job.created_at)
    ran = func.extract("epoch", Job.finished_at - Job.started_at)
    query = (
        select(
            Event.job_id,
            Event.seq,
            Event.type,
            Event.created_at,
            func.jsonb_extract_path_text(Event.data, "error", "type"),
            Job.device,
            func.jsonb_extract_path_text(Event.data, "device"),
            Job.worker_device,
            waited.label("waited"),
            ran.label("ran"),
            Event.attempt,
        )
        .join(Job, Job.id == Event.job_id)
        .where(text(LIFECYCLE), Event.created_at > since)
        .order_by(Event.created_at)
    )
    return [
        LifecycleEvent(
            job_id,
            seq,
            type,
            at,
            error,
            asked,
            claimed,
            used,
            float(waited) if type == "claimed" and attempt == 1 else None,
            float(ran) if ran is not None and type in _ENDS else None,
        )
        for job_id, seq, type, at, error, asked, claimed, used, waited, ran, attempt in session.execute(query)
    ]


_SETTLED = (DeliveryState.DELIVERED.value, DeliveryState.DEAD.value)
_ENDS = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class _Count:
    jobs: int = 0
    nodes: int = 0


def _counts(
    session: Session, device: InstrumentedAttribute[Any], devices: Iterable[str], state: ColumnElement[Any]
) -> dict[str, _Count]:
    """The jobs in a state, by this one of their devices, with 0 for those of `devices` that have none."""
    query = select(device, func.count(), func.sum(Job.nodes)).where(Job.state == state).group_by(device)
    found = {name: _Count(jobs, int(nodes)) for name, jobs, nodes in session.execute(query) if name is not None}
    return dict.fromkeys(devices, _Count()) | found


def _queued_for(session: Session, device: str) -> float:
    """Age of the oldest job that was never claimed. One that was given back has waited since then."""
    oldest = (
        select(func.extract("epoch", func.clock_timestamp() - Job.created_at))
        .where(Job.state == literal_column("'queued'"), Job.device == device, Job.attempt == 0)
        .order_by(Job.created_at, Job.id)
        .limit(1)
    )
    return _age(session.scalar(oldest))


def _workers(session: Session) -> dict[str, int]:
    alive = workers.live(session)
    return {device: sum(device in worker.devices for worker in alive) for device in DEVICES}


def _inspections(session: Session) -> dict[str, Backlog]:
    age = func.extract("epoch", func.clock_timestamp() - func.min(Upload.completed_at))
    waiting = Upload.inspection_state == InspectionState.PENDING
    query = select(Upload.kind, func.count(), age).where(waiting).group_by(Upload.kind)
    found = {kind: Backlog(count, _age(seconds)) for kind, count, seconds in session.execute(query)}
    return {kind.value: Backlog() for kind in UploadKind} | found


def _messages(session: Session) -> Backlog:
    # The index of what is due has both. What waits longest comes first in it.
    due = WebhookDelivery.due_at
    planned = (WebhookDelivery.state == DeliveryState.PENDING, due.is_not(None))
    counted = select(due).where(*planned).limit(MOST_MESSAGES).subquery()
    count = session.scalars(select(func.count()).select_from(counted)).one()
    age = session.scalar(select(func.extract("epoch", func.clock_timestamp() - func.min(due))).where(*planned))
    return Backlog(count, _age(age))


def _age(seconds: object) -> float:
    """0 instead of none, and of what a clock that was set back would make negative."""
    return max(0.0, float(str(seconds))) if seconds is not None else 0.0
