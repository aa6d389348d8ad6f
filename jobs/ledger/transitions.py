"""What every change of a job has in common: events numbered under the row's lock, a new version, a wake-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from jobs.database.models import Event as EventRow
from jobs.database.models import Job
from jobs.database.notifications import notify


@dataclass(frozen=True)
class Event:
    """Something that happened to a job."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)


def add_events(session: Session, job_id: str, attempt: int, last: int, events: Sequence[Event]) -> None:
    """Write events whose numbers the caller has taken, under the job's row lock, up to `last`."""
    if events:
        first = last - len(events) + 1
        session.execute(
            insert(EventRow),
            [
                {"job_id": job_id, "seq": first + i, "attempt": attempt, "type": event.type, "data": event.data}
                for i, event in enumerate(events)
            ],
        )
    notify(session, job_id)


def change(session: Session, job: Job, events: Sequence[Event], **values: Any) -> None:
    """Change a job whose row the caller has locked."""
    for name, value in values.items():
        setattr(job, name, value)
    job.event_seq += len(events)
    job.version += 1
    session.flush()
    add_events(session, job.id, job.attempt, job.event_seq, events)
