"""The rows of `tracked_runs`: which job's run somebody works on, and how far it is.

A process takes a run for a while and gets its `turn`, which fences off every earlier process. It writes each step as
soon as the tracking server has it, so whoever goes on repeats one step at most.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobs.database.models import Job, TrackedRun
from jobs.database.notifications import notify
from jobs.errors import Stale
from jobs.ledger.stored_specs import read_track
from jobs.tracking.trackers import Trackers

TURN_SECONDS = 120.0
"""A process that has not renewed its turn for this long loses it."""


class RunStage(StrEnum):
    NEW = "new"
    """Nothing has been done."""
    LIVE = "live"
    """The run is described, and follows the job."""
    ENDED = "ended"
    """The job is finished, and so is the run."""
    STORED = "stored"
    """The run has the job's files."""
    COMPLETE = "complete"
    """Nothing is left to do, or it was given up."""


@dataclass(frozen=True)
class Turn:
    """The right of one process to work on a run."""

    job_id: str
    number: int


def follow(session: Session, job: Job, trackers: Trackers) -> None:
    """Let a run follow a job, if the job's request or the default of `trackers` says so. A run that exists goes on.

    Raises Unreadable.
    """
    uri = trackers.uri_for(read_track(job))
    if uri is not None:
        row = insert(TrackedRun).values(job_id=job.id, tracking_uri=uri)
        session.execute(row.on_conflict_do_nothing())


def take(session: Session, left_out: Collection[str] = ()) -> tuple[Turn, TrackedRun] | None:
    """Take the run that has been due for longest; not of the servers `left_out`. None if there is none."""
    query = (
        select(TrackedRun)
        .where(
            TrackedRun.stage != RunStage.COMPLETE,
            TrackedRun.due_at <= func.statement_timestamp(),
            TrackedRun.tracking_uri.not_in(left_out),
        )
        .order_by(TrackedRun.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    run = session.scalars(query, execution_options={"populate_existing": True}).one_or_none()
    if run is None:
        return None
    run.turn += 1
    run.due_at = _in(TURN_SECONDS)
    session.flush()
    session.refresh(run)
    return Turn(run.job_id, run.turn), run


def write(session: Session, turn: Turn, *, seconds: float = TURN_SECONDS, **values: Any) -> TrackedRun:
    """Write what has been done, and keep the turn for `seconds` more. Raises Stale."""
    statement = (
        update(TrackedRun)
        .where(TrackedRun.job_id == turn.job_id, TrackedRun.turn == turn.number)
        .values(due_at=_in(seconds), **values)
        .returning(TrackedRun)
    )
    before = session.get(TrackedRun, turn.job_id)
    seen = None if before is None else _visible(before)
    run = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if run is None:
        raise Stale
    if _visible(run) != seen:
        notify(session, turn.job_id)
    return run


def remove(session: Session, turn: Turn) -> None:
    """Remove the row of a job that was deleted. Raises Stale."""
    write(session, turn)
    session.execute(sql_delete(TrackedRun).where(TrackedRun.job_id == turn.job_id))


def of_jobs(session: Session, job_ids: Collection[str]) -> dict[str, TrackedRun]:
    """The runs of these jobs, by job."""
    query = select(TrackedRun).where(TrackedRun.job_id.in_(job_ids))
    return {run.job_id: run for run in session.scalars(query, execution_options={"populate_existing": True})}


def forget_complete(session: Session, job_ids: Collection[str]) -> None:
    """Remove the rows of deleted jobs. Those that are not complete stay until their runs have been ended."""
    session.execute(sql_delete(TrackedRun).where(TrackedRun.job_id.in_(job_ids), TrackedRun.stage == RunStage.COMPLETE))


def _visible(run: TrackedRun) -> tuple[Any, ...]:
    """What readers of the job see of its run."""
    return run.run_id, run.experiment_id, run.stage == RunStage.COMPLETE, run.registered, run.error


def _in(seconds: float) -> Any:
    return func.clock_timestamp() + timedelta(seconds=seconds)
