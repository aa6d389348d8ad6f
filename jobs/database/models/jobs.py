"""Jobs, and the rows that each of them has in other tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, false, func, select, text
from sqlalchemy.orm import Mapped, column_property, mapped_column

from jobs.database.models.base import Base, now

LIFECYCLE_EVENTS = ("queued", "claimed", "released", "lost", "succeeded", "failed", "cancelled")
"""Types of the events that change the state of a job."""
LIFECYCLE = f"type IN ({', '.join(map(repr, LIFECYCLE_EVENTS))})"
"""The index of events by time has these only. A query must say it in these words, and not with parameters."""


class JobFiles(Base):
    """What becomes of a job's files. A row of its own, because a finished job's row never changes.

    A trigger adds it when the job finishes.
    """

    __tablename__ = "job_files"
    __table_args__ = (
        Index(
            "ix_job_files_finished_at",
            "finished_at",
            postgresql_where=text("removed_at IS NULL AND NOT kept"),
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    finished_at: Mapped[datetime | None]
    """None: the job has not finished, and its owner wants to keep its files."""
    kept: Mapped[bool] = mapped_column(server_default="false")
    """Whether its owner wants to keep the files, however old they are."""
    removed_at: Mapped[datetime | None]
    """From then on nobody reads the files. They leave storage a little later."""


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("device IN ('auto', 'cpu', 'cuda')", name="device"),
        CheckConstraint("(state = 'running') = (lease_expires_at IS NOT NULL)", name="lease"),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished_at"
        ),
        CheckConstraint("estimated_finish IS NULL OR state = 'running'", name="estimated_finish"),
        CheckConstraint("(study_id IS NULL) = (trial IS NULL)", name="trial"),
        CheckConstraint("trial_stopped IN ('hopeless', 'unneeded')", name="trial_stopped"),
        Index("ix_jobs_owner_created_at_id", "owner", "created_at", "id"),
        Index("ix_jobs_owner_state_created_at_id", "owner", "state", "created_at", "id"),
        Index(
            "ix_jobs_owner_name_created_at_id",
            "owner",
            "name",
            "created_at",
            "id",
            postgresql_where=text("name IS NOT NULL"),
        ),
        Index(
            "ix_jobs_study_id_created_at_id",
            "study_id",
            "created_at",
            "id",
            postgresql_where=text("study_id IS NOT NULL"),
        ),
        Index(
            "ix_jobs_study_id_trial_trial_round",
            "study_id",
            "trial",
            "trial_round",
            unique=True,
            postgresql_where=text("study_id IS NOT NULL"),
        ),
        Index("ix_jobs_study_id_state", "study_id", "state", postgresql_where=text("study_id IS NOT NULL")),
        # With all that a place in the queue depends on, and the nodes, so that no row need be read to count jobs in it.
        Index(
            "ix_jobs_queued",
            "device",
            "created_at",
            "id",
            postgresql_where=text("state = 'queued'"),
            postgresql_include=["owner", "spec_version", "devices", "nodes"],
        ),
        # One step in it finds an owner's oldest job for a device and a number of devices.
        Index(
            "ix_jobs_owner_queued",
            "device",
            "devices",
            "owner",
            "created_at",
            "id",
            postgresql_where=text("state = 'queued'"),
            postgresql_include=["spec_version"],
        ),
        # Not of `lease_expires_at`: each heartbeat would then write to all indexes of the table.
        Index("ix_jobs_running", "owner", postgresql_where=text("state = 'running'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    name: Mapped[str | None]
    tags: Mapped[list[str]]
    state: Mapped[str]
    device: Mapped[str]
    devices: Mapped[int] = mapped_column(server_default="1")
    """Processes on each worker."""
    nodes: Mapped[int] = mapped_column(server_default="1")
    """Workers that train it together."""
    spec_version: Mapped[int]
    request: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]
    attempt: Mapped[int] = mapped_column(server_default="0")
    """How often the job was claimed. It only grows, and fences off every earlier attempt."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """How many attempts were lost. A drain is not a failure."""
    max_attempts: Mapped[int]
    study_id: Mapped[str | None] = mapped_column(ForeignKey("studies.id"))
    trial: Mapped[dict[str, Any] | None]
    """What distinguishes this job from the others of its study, for example {"arm": "lit", "seed": 3}."""
    trial_round: Mapped[int | None]
    """The round of the study in which the job was made."""
    trial_stopped: Mapped[str | None]
    """Why the study itself stopped this trial."""
    worker_id: Mapped[str | None]
    worker_device: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    checkpoint: Mapped[str | None]
    """Storage key of the newest recorded checkpoint, whichever attempt stored it."""
    progress: Mapped[dict[str, Any] | None]
    """How far the newest attempt is, or came."""
    estimated_finish: Mapped[datetime | None]
    """Written with the progress, by the database's clock. None while it is unknown or the job is not running."""
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    manifest: Mapped[list[dict[str, Any]] | None]
    stored_bytes: Mapped[int] = mapped_column(server_default="0")
    """Size of the files in the manifest, which count towards the owner's quota."""
    batch: Mapped[str | None]
    """Id of the newest recorded batch of trainer messages, so that a batch that is sent twice is recorded once."""
    event_seq: Mapped[int] = mapped_column(server_default="0")
    version: Mapped[int] = mapped_column(server_default="0")
    """Grows with every change that a reader can see. Heartbeats don't change it."""
    seconds_used: Mapped[float] = mapped_column(server_default="0")
    """Seconds of training over all attempts."""
    traceparent: Mapped[str | None]
    """The span of the request that made the job (W3C Trace Context), which the worker's trace continues."""
    created_at: Mapped[datetime] = now()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    # A subquery and not `exists`, for which the planner may read all of `job_files` at once.
    kept: Mapped[bool] = column_property(
        func.coalesce(
            select(JobFiles.kept).where(JobFiles.job_id == id).correlate_except(JobFiles).scalar_subquery(), false()
        ).label("kept")
    )
    files_removed_at: Mapped[datetime | None] = column_property(
        select(JobFiles.removed_at).where(JobFiles.job_id == id).correlate_except(JobFiles).scalar_subquery()
    )


class JobTag(Base):
    """A tag of a job, in the order of lists: pages of the jobs with a tag are read without those that don't have it.

    A trigger adds it with the job. Tags don't change.
    """

    __tablename__ = "job_tags"

    owner: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    """The job's."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, index=True)


class JobUpload(Base):
    """Which uploads a job needs. An upload's row may be deleted once the job has finished."""

    __tablename__ = "job_uploads"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (Index("ix_events_lifecycle", "created_at", postgresql_where=text(LIFECYCLE)),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = now()


class EpochMetrics(Base):
    """The metrics of a job in one epoch. One row, because a row for each number takes six times the space."""

    __tablename__ = "epoch_metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    values: Mapped[dict[str, Any]]
    """Numbers, by the names of the metrics."""
    attempt: Mapped[int]
    """The newest that wrote one of them."""
