"""Uploads: teachers and data sets, and what their inspection found."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.database.models.base import Base, now


class Upload(Base):
    __tablename__ = "uploads"
    __table_args__ = (
        CheckConstraint("kind IN ('teacher', 'dataset')", name="kind"),
        CheckConstraint("state IN ('uploading', 'complete')", name="state"),
        CheckConstraint("inspection_state IN ('pending', 'running', 'done', 'failed')", name="inspection_state"),
        CheckConstraint("teacher_weights IN ('raw', 'ema')", name="teacher_weights"),
        CheckConstraint("received >= 0 AND received <= size", name="received"),
        Index("ix_uploads_owner_created_at_id", "owner", "created_at", "id"),
        Index("ix_uploads_owner_sha256", "owner", "sha256"),
        Index(
            "ix_uploads_to_inspect",
            "completed_at",
            postgresql_where=text("inspection_state IN ('pending', 'running')"),
        ),
        Index("ix_uploads_unfinished", "id", postgresql_where=text("state = 'uploading'")),
        Index(
            "ix_uploads_unused_since",
            text("coalesce(unused_since, completed_at)"),
            postgresql_where=text("state = 'complete'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    kind: Mapped[str]
    filename: Mapped[str]
    size: Mapped[int]
    received: Mapped[int] = mapped_column(server_default="0")
    writer: Mapped[int] = mapped_column(server_default="0")
    """The token of the newest request that writes: it only grows, and fences off every earlier request."""
    sha256: Mapped[str | None]
    """As announced while uploading; as computed once complete."""
    state: Mapped[str]
    architecture: Mapped[dict[str, Any] | None]
    """Which library's network the teacher is, as its owner says. It is inspected as this network."""
    teacher_weights: Mapped[str | None]
    """Which weights of a teacher its owner wants, if its file has raw and averaged ones."""
    inspection_state: Mapped[str | None]
    inspection: Mapped[dict[str, Any] | None]
    inspection_error: Mapped[dict[str, Any] | None]
    inspection_started_at: Mapped[datetime | None]
    inspection_failures: Mapped[int] = mapped_column(server_default="0")
    """How many inspections were lost. An inspection that finds that the file is not a teacher is not lost."""
    created_at: Mapped[datetime] = now()
    received_at: Mapped[datetime] = now()
    """When the newest bytes arrived, or a client last began to send some."""
    completed_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    """When its owner announced the same file again. Jobs and studies have their own times."""
    unused_since: Mapped[datetime | None]
    """It was needed until then or later, as retention found when it looked last. None: it has not looked."""
