"""The one place that changes what readers of a job see: numbered events, a new version, notifications and webhooks.

`jobs.ledger.creation` writes the first event, of which nobody has to be notified: who waits for a job knows its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, insert
from sqlalchemy.orm import Session

from jobs.database.models import Event as EventRow
from jobs.database.models import Job, Seat
from jobs.database.notifications import notify
from jobs.webhooks import outbox
from lit_spec.states import JobState


@dataclass(frozen=True)
class Event:
    """Something that happened to a job."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)


def change(session: Session, job: Job, events: Sequence[Event], **values: Any) -> None:
    """Change a job whose row the caller has locked.

    The seats of an attempt that ends with this are gone.
    """
    for name, value in values.items():
        setattr(job, name, value)
    first = job.event_seq + 1
    job.event_seq += len(events)
    job.version += 1
    session.flush()
    if events:
        session.execute(
            insert(EventRow),
            [
                {"job_id": job.id, "seq": first + i, "attempt": job.attempt, "type": event.type, "data": event.data}
                for i, event in enumerate(events)
            ],
        )
    if values.get("state", JobState.RUNNING) != JobState.RUNNING:
        session.execute(delete(Seat).where(Seat.job_id == job.id))
    if "state" in values:
        outbox.job_changed(session, job)
    notify(session, job.id)
