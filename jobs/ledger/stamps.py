"""Stamps: which state of a job a reader saw, without reading the job."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Text, literal_column, text
from sqlalchemy.orm import Session

Stamp = str
OwnedJob = tuple[str, str]
"""Owner and id."""

_STAMPS = text("""
    SELECT job.owner, job.id, concat_ws('.', job.xmin, coalesce(files.xmin, '0'), coalesce(run.xmin, '0'))
    FROM unnest(CAST(:owners AS text[]), CAST(:ids AS text[])) AS asked (owner, id)
    JOIN jobs AS job ON job.id = asked.id AND job.owner = asked.owner
    LEFT JOIN job_files AS files ON files.job_id = job.id
    LEFT JOIN tracked_runs AS run ON run.job_id = job.id
""")
"""The transactions that wrote the rows of which a job's answer is made. Heartbeats give another stamp too."""


STAMP = literal_column(
    "concat_ws('.', jobs.xmin,"
    " coalesce((SELECT files.xmin FROM job_files AS files WHERE files.job_id = jobs.id), '0'),"
    " coalesce((SELECT run.xmin FROM tracked_runs AS run WHERE run.job_id = jobs.id), '0'))",
    Text,
).label("stamp")
"""The same for a query of jobs."""


class StampedJob(NamedTuple):
    """A job's place in lists, and its stamp."""

    created_at: datetime
    id: str
    stamp: Stamp


def stamps(session: Session, asked: Collection[OwnedJob]) -> dict[OwnedJob, Stamp]:
    """The stamps of the jobs that exist and belong to these owners. While a stamp is the same, so is the job.

    Read a stamp before the job: then the job is of the stamp's state or newer.
    """
    owners, ids = [owner for owner, _ in asked], [job_id for _, job_id in asked]
    return {(owner, job_id): stamp for owner, job_id, stamp in session.execute(_STAMPS, {"owners": owners, "ids": ids})}
