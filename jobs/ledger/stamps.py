"""By what a list sees that a job's answer has changed since it was kept."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Text, literal_column

Stamp = str

STAMP = literal_column(
    "concat_ws('.', jobs.xmin,"
    " coalesce((SELECT files.xmin FROM job_files AS files WHERE files.job_id = jobs.id), '0'),"
    " coalesce((SELECT run.xmin FROM tracked_runs AS run WHERE run.job_id = jobs.id), '0'))",
    Text,
).label("stamp")
"""Of a query of jobs: the transactions that wrote the rows of which a job's answer is made. Heartbeats give another
stamp too."""


class StampedJob(NamedTuple):
    """A job's place in lists, and its stamp."""

    created_at: datetime
    id: str
    stamp: Stamp
