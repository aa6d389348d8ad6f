"""Training workers, and their places in the attempts of others."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.database.models.base import Base, now


class Worker(Base):
    """The registration of a training worker."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    hostname: Mapped[str]
    devices: Mapped[list[str]]
    spec_versions: Mapped[list[int]]
    processes: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """By device, how many processes of one job it can run."""
    job_id: Mapped[str | None]
    last_seen: Mapped[datetime] = now()


class Seat(Base):
    """The place of a worker in the attempt of another one. `jobs.ledger.seats` keeps them."""

    __tablename__ = "seats"
    __table_args__ = (
        CheckConstraint("lease_expires_at IS NULL OR worker_id IS NOT NULL", name="lease"),
        Index("ix_seats_open", "job_id", postgresql_where=text("worker_id IS NULL")),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    node: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1: node 0 is the worker that has claimed the job."""
    attempt: Mapped[int]
    endpoint: Mapped[str]
    """host:port at which the trainer of node 0 waits for the others."""
    worker_id: Mapped[str | None]
    """None: nobody has taken it yet."""
    lease_expires_at: Mapped[datetime | None]
    """None: nobody has taken it, or the worker's part is done."""
