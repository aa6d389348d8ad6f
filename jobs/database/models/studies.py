"""Studies: groups of jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.database.models.base import Base, now


class Study(Base):
    """A group of jobs, which are its trials. `jobs.studies` decides what comes next."""

    __tablename__ = "studies"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished_at"),
        Index("ix_studies_owner_created_at_id", "owner", "created_at", "id"),
        Index("ix_studies_owner_state_created_at_id", "owner", "state", "created_at", "id"),
        Index(
            "ix_studies_owner_name_created_at_id",
            "owner",
            "name",
            "created_at",
            "id",
            postgresql_where=text("name IS NOT NULL"),
        ),
        Index("ix_studies_running", "created_at", postgresql_where=text("state = 'running'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    name: Mapped[str | None]
    tags: Mapped[list[str]]
    kind: Mapped[str]
    state: Mapped[str]
    study_version: Mapped[int]
    request: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]
    round: Mapped[int] = mapped_column(server_default="1")
    """Grows when the study is resumed: trials that failed or were cancelled in an earlier round are made again."""
    reads_curves: Mapped[bool] = mapped_column(server_default="false")
    """Whether its kind reads the curves of running trials, so that any epoch may change what comes next."""
    planned: Mapped[int]
    """The largest possible number of trials."""
    finished_jobs: Mapped[int] = mapped_column(server_default="0")
    """Jobs that had finished when the study was last advanced."""
    cancel_requested_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    version: Mapped[int] = mapped_column(server_default="0")
    """Grows with every change of the row that a reader can see."""
    created_at: Mapped[datetime] = now()
    finished_at: Mapped[datetime | None]


class StudyTag(Base):
    """A tag of a study, like JobTag."""

    __tablename__ = "study_tags"

    owner: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    """The study's."""
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True, index=True)


class StudyUpload(Base):
    """Which uploads a study needs while it runs, also at times when no trial needs them."""

    __tablename__ = "study_uploads"

    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True, index=True)
