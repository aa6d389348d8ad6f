"""The events of many jobs at once, for those who follow jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, Text, cast, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased, load_only

from jobs.database.models import Event, Job


class Position(NamedTuple):
    """How far somebody has followed a job."""

    owner: str
    job_id: str
    after: int
    """Number of the last event that is known."""


class News(NamedTuple):
    """What has happened to a job."""

    job: Job
    """Its state, progress, estimated finish and version; nothing else is loaded."""
    events: list[Event]
    """Those after the position, in order."""


_LIVE = load_only(Job.id, Job.owner, Job.state, Job.progress, Job.estimated_finish, Job.version)


def read_news(session: Session, positions: Sequence[Position], limit: int) -> dict[Position, News]:
    """In two statements, with at most `limit` events for each position. Jobs that their owner lacks are left out."""
    query = select(Job).where(Job.id.in_({position.job_id for position in positions})).options(_LIVE)
    # Before the events, so that the last events of a finished job are among them.
    jobs = {(job.owner, job.id): job for job in session.scalars(query)}
    news = {
        position: News(jobs[position.owner, position.job_id], [])
        for position in positions
        if (position.owner, position.job_id) in jobs
    }
    followed = list(news)
    ids = cast([position.job_id for position in followed], ARRAY(Text))
    lasts = cast([position.after for position in followed], ARRAY(BigInteger))
    asked = func.unnest(ids, lasts).table_valued("job_id", "after", with_ordinality="number").render_derived()
    newer = select(Event).where(Event.job_id == asked.c.job_id, Event.seq > asked.c.after)
    event = aliased(Event, newer.order_by(Event.seq).limit(limit).lateral())
    found = select(asked.c.number, event).select_from(asked).join(event, true()).order_by(asked.c.number, event.seq)
    for number, one in session.execute(found):
        news[followed[number - 1]].events.append(one)
    return news
