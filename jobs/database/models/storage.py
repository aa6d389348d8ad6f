"""What the ledger knows of its storage beside the files of jobs and uploads."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import Mapped, mapped_column

from jobs.database.models.base import Base


class StorageMarker(Base):
    """One row: the id of the object by which a worker recognises the storage of this ledger."""

    __tablename__ = "storage_marker"

    id: Mapped[str] = mapped_column(primary_key=True)


class StorageRemoval(Base):
    """A prefix in storage that nothing in the ledger names any more, and whose files are still to be removed."""

    __tablename__ = "storage_removals"

    prefix: Mapped[str] = mapped_column(primary_key=True)
    remove_after: Mapped[datetime] = mapped_column(index=True)


class SpentCheckpoints(Base):
    """A finished job that had been claimed, and whose checkpoints are still to be removed. A trigger adds it."""

    __tablename__ = "spent_checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    finished_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)
