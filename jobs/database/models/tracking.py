"""Runs of jobs at tracking servers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.database.models.base import Base, now


class TrackedRun(Base):
    """The run of a job at a tracking server. A job that a worker claims gets it; `jobs.tracking.runs` keeps it.

    It outlives its job until the run at the server has been ended.
    """

    __tablename__ = "tracked_runs"
    __table_args__ = (
        CheckConstraint("stage IN ('new', 'live', 'ended', 'stored', 'complete')", name="stage"),
        Index("ix_tracked_runs_due", "due_at", postgresql_where=text("stage <> 'complete'")),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    tracking_uri: Mapped[str]
    run_id: Mapped[str | None]
    """None: the run has not been made yet."""
    experiment_id: Mapped[str | None]
    stage: Mapped[str] = mapped_column(server_default="new")
    """What has been done: `new` nothing, `live` the run is described and follows the job, `ended` the job is finished
    and so is the run, `stored` its files are there, `complete` nothing is left to do."""
    event_seq: Mapped[int] = mapped_column(server_default="0")
    """Number of the job's newest event that the run has."""
    epochs: Mapped[int] = mapped_column(server_default="0")
    """The newest epoch that the run has, counted through all phases. Epochs that are repeated don't count."""
    status: Mapped[str | None]
    """The run's status, as it was last set."""
    registered: Mapped[dict[str, Any] | None]
    """`name` and `version` of the registered model."""
    error: Mapped[str | None]
    """What failed last, until it succeeds."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """How often in a row the tracking server has failed."""
    turn: Mapped[int] = mapped_column(server_default="0")
    """The token of the newest process that works on the run: it only grows, and fences off every earlier one."""
    due_at: Mapped[datetime] = now()
    """When somebody may work on it again: not while a process does, and not too soon after a failure."""
    created_at: Mapped[datetime] = now()
