"""Checkpoints of finished jobs, which are removed from storage.

A database trigger records every job that was claimed and has finished, however it finished. The worker that finished it
removes the checkpoints at once. Housekeeping removes them again a while later, because the worker may have
died first, or a stale attempt may have been storing another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from jobs.database.models import Job, SpentCheckpoints
from jobs.storage import layout

SETTLED_SECONDS = 900.0
"""This long after a job has finished, no process stores anything for it."""
JOBS_PER_ROUND = 100


def spent(session: Session, job_id: str) -> list[str]:
    """The keys under which a finished job may have left checkpoints; none while the job is not finished."""
    return [key for keys in _keys(session, _FINISHED.where(Job.id == job_id)).values() for key in keys]


def settled(session: Session) -> dict[str, list[str]]:
    """The same for the jobs that finished a while ago, the oldest first."""
    long_ago = func.statement_timestamp() - timedelta(seconds=SETTLED_SECONDS)
    query = _FINISHED.where(SpentCheckpoints.finished_at < long_ago).order_by(SpentCheckpoints.finished_at)
    return _keys(session, query.limit(JOBS_PER_ROUND))


def forget(session: Session, job_ids: Sequence[str]) -> None:
    """Record that the checkpoints of these jobs are removed."""
    session.execute(delete(SpentCheckpoints).where(SpentCheckpoints.job_id.in_(job_ids)))


_FINISHED = select(Job.id, Job.attempt).join(SpentCheckpoints, SpentCheckpoints.job_id == Job.id)


def _keys(session: Session, query: Select[str, int]) -> dict[str, list[str]]:
    return {
        job_id: [layout.checkpoint(job_id, attempt) for attempt in range(1, attempts + 1)]
        for job_id, attempts in session.execute(query)
    }
