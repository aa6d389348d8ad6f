"""The marker: an empty object in storage by which a worker recognises the storage of its ledger.

A migration creates the marker's id in the ledger. So any process may write the object, any number of times, and several
ledgers may share one storage.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database.models import StorageMarker
from jobs.storage import layout
from jobs.storage.storage import Storage


def marker_key(session: Session) -> str:
    """The storage key of this ledger's marker."""
    return layout.marker(session.scalars(select(StorageMarker.id)).one())


def storage_fault(storage: Storage, marker: str) -> str | None:
    """Why this is not the storage of the ledger whose marker has the key `marker`; None if it is."""
    try:
        if storage.exists(marker):
            return None
    except OSError as failure:
        return f"the storage can't be read: {failure}"
    return (
        f"the storage is not the ledger's, or is not mounted (it has no {marker}, which `litc api` and `litc serve` "
        "write when they start): set LIT_STORAGE_DIR or LIT_STORAGE_URL to what the API has"
    )
