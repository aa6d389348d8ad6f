"""The audit log: who changed what, when, and through which request.

An entry is written in the transaction of its change, so neither is there without the other. It never has a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, any_, delete, func, select
from sqlalchemy.orm import Session

from jobs.database.models import AuditEntry
from jobs.ids import new_id
from jobs.ledger.owned_rows import PageCursor, read_rows
from lit_spec.answers.audit import Outcome

FORGOTTEN_PER_ROUND = 10_000


@dataclass
class Actor:
    """Who acts, and through which request. It is filled in as it becomes known."""

    owner: str | None = None
    key_id: str | None = None
    subject: str | None = None
    request_id: str | None = None
    address: str | None = None


_ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Let `record` know who acts. Threads that this context starts through anyio know it too."""
    token = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(token)


def current_actor() -> Actor:
    """Who acts here. Nobody, where no request and no command is being handled."""
    return _ACTOR.get() or Actor()


def record(
    session: Session,
    action: str,
    object_id: str | None,
    *,
    detail: dict[str, Any] | None = None,
    outcome: Outcome = Outcome.DONE,
) -> None:
    """Note what the current actor does in this transaction. `action` is the object's kind and a verb: `job.create`."""
    actor = current_actor()
    session.add(
        AuditEntry(
            id=new_id("aud"),
            owner=actor.owner,
            key_id=actor.key_id,
            subject=actor.subject,
            action=action,
            kind=action.partition(".")[0],
            object_id=object_id,
            outcome=outcome.value,
            request_id=actor.request_id,
            address=actor.address,
            detail=detail,
        )
    )
    session.flush()


def list_page(
    session: Session,
    *,
    owner: str | None = None,
    key_id: str | None = None,
    action: str | None = None,
    object_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: PageCursor | None = None,
    limit: int = 50,
) -> list[AuditEntry]:
    """Entries of all owners, newest first. `since` is included, `until` is not. None leaves a filter out."""
    equal = {"owner": owner, "key_id": key_id, "action": action, "object_id": object_id}
    filters: list[ColumnElement[bool]] = [
        getattr(AuditEntry, name) == value for name, value in equal.items() if value is not None
    ]
    if since is not None:
        filters.append(AuditEntry.created_at >= since)
    if until is not None:
        filters.append(AuditEntry.created_at < until)
    return read_rows(session, AuditEntry, filters=filters, after=after, limit=limit)


def count(session: Session, action: str, object_id: str, seconds: float) -> int:
    """How often this was done within the last `seconds`."""
    since = func.statement_timestamp() - timedelta(seconds=seconds)
    query = select(func.count()).where(AuditEntry.object_id == object_id, AuditEntry.action == action)
    return session.execute(query.where(AuditEntry.created_at >= since)).scalar_one()


def forget_old(session: Session, days: int) -> None:
    """Remove entries that are older, at most FORGOTTEN_PER_ROUND at once, the oldest first."""
    too_old = AuditEntry.created_at < func.statement_timestamp() - timedelta(days=days)
    some = select(AuditEntry.id).where(too_old).order_by(AuditEntry.created_at).limit(FORGOTTEN_PER_ROUND)
    # As an array, which is made once: the planner could also read the whole log and look up each entry in a list.
    session.execute(delete(AuditEntry).where(AuditEntry.id == any_(func.array(some.scalar_subquery()))))
