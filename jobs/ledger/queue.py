"""The queue: which job is next.

The query must stay fast with 100,000 queued jobs, also where all but the last are of an owner who may run no more now.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, any_, func, select, true
from sqlalchemy.orm import Session, aliased

from jobs.database.models import Job
from lit_spec.states import JobState

OLDEST_PER_OWNER = 16
"""More than there are workers that claim a job of one owner in the same instant: those jobs are locked."""


def oldest_queued(session: Session, fits: Sequence[ColumnElement[bool]], at_limit: Collection[str]) -> Job | None:
    """The oldest queued job for which all conditions hold, and whose owner is not in `at_limit`; its row is locked.

    Jobs that others have locked are passed over.
    """
    query = select(Job).where(Job.state == JobState.QUEUED, *fits)
    if at_limit:
        # As an array, which is made once: the planner could also read the whole queue and look up each job in a list.
        query = query.where(Job.id == any_(func.array(_oldest_of_others(fits, at_limit).scalar_subquery())))
    query = query.order_by(Job.created_at, Job.id).limit(1).with_for_update(skip_locked=True)
    return session.scalars(query, execution_options={"populate_existing": True}).one_or_none()


def _oldest_of_others(fits: Sequence[ColumnElement[bool]], at_limit: Collection[str]) -> Select[tuple[str]]:
    """The ids of the oldest jobs of each owner who is not in `at_limit`.

    It takes one step in the index for each owner, instead of reading all jobs of those who are in `at_limit`.
    """
    first = aliased(Job)
    owners = (
        select(first.owner).where(first.state == JobState.QUEUED).order_by(first.owner).limit(1).cte(recursive=True)
    )
    following = aliased(Job)
    step = (
        select(following.owner)
        .where(following.state == JobState.QUEUED, following.owner > owners.c.owner)
        .order_by(following.owner)
        .limit(1)
        .lateral()
    )
    owners = owners.union_all(select(step.c.owner).select_from(owners.join(step, true())))
    oldest = (
        select(Job.id)
        .where(Job.state == JobState.QUEUED, Job.owner == owners.c.owner, *fits)
        .order_by(Job.created_at, Job.id)
        .limit(OLDEST_PER_OWNER)
        .correlate(owners)
        .lateral()
    )
    return select(oldest.c.id).select_from(owners.join(oldest, true())).where(owners.c.owner.not_in(at_limit))
