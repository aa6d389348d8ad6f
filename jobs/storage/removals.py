"""Files whose rows are gone: prefixes that are recorded with the row's end, and removed until that has succeeded.

Whoever deletes a row records its prefix in the same transaction, and calls `remove_now` after it. Housekeeping removes
what that has left.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobs.database.models import StorageRemoval
from jobs.storage.storage import Storage

PREFIXES_PER_ROUND = 100
SETTLING_SECONDS = 60.0
"""So long housekeeping leaves a prefix to `remove_now`. Requests that still write there have mostly ended then."""

log = structlog.get_logger()


def record(session: Session, prefix: str, seconds: float = 0.0) -> None:
    """Have everything under a prefix removed from storage, `seconds` from now or later."""
    after = func.clock_timestamp() + timedelta(seconds=seconds)
    session.execute(insert(StorageRemoval).values(prefix=prefix, remove_after=after).on_conflict_do_nothing())


def remove_now(storage: Storage, prefixes: Sequence[str]) -> None:
    """Remove everything under recorded prefixes. What storage can't remove now is left to housekeeping.

    The records stay: housekeeping looks again for what was still on its way.
    """
    for number, prefix in enumerate(prefixes):
        try:
            storage.delete_prefix(prefix)
        except OSError as failure:
            log.warning("files left to housekeeping", prefixes=len(prefixes) - number, error=str(failure))
            return


def due(session: Session) -> list[str]:
    """The prefixes to remove now, those that have waited longest first."""
    query = select(StorageRemoval.prefix).where(StorageRemoval.remove_after <= func.statement_timestamp())
    return list(session.scalars(query.order_by(StorageRemoval.remove_after).limit(PREFIXES_PER_ROUND)))


def forget(session: Session, prefixes: Sequence[str]) -> None:
    """Record that nothing is left under these prefixes."""
    session.execute(delete(StorageRemoval).where(StorageRemoval.prefix.in_(prefixes)))
