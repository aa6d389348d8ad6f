"""Files whose rows are gone: prefixes that are recorded with the row's end, and removed until that has succeeded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobs.database.models import StorageRemoval

PREFIXES_PER_ROUND = 100


def record(session: Session, prefix: str, seconds: float = 0.0) -> None:
    """Have everything under a prefix removed from storage, `seconds` from now or later."""
    after = func.clock_timestamp() + timedelta(seconds=seconds)
    session.execute(insert(StorageRemoval).values(prefix=prefix, remove_after=after).on_conflict_do_nothing())


def due(session: Session) -> list[str]:
    """The prefixes to remove now, those that have waited longest first."""
    query = select(StorageRemoval.prefix).where(StorageRemoval.remove_after <= func.clock_timestamp())
    return list(session.scalars(query.order_by(StorageRemoval.remove_after).limit(PREFIXES_PER_ROUND)))


def forget(session: Session, prefixes: Sequence[str]) -> None:
    """Record that nothing is left under these prefixes."""
    session.execute(delete(StorageRemoval).where(StorageRemoval.prefix.in_(prefixes)))
