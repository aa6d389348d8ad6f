"""The queue: which job is next, and how many are before another.

Both must stay fast with 100,000 queued jobs: also where all but the last are for another device, or of an owner who may
run no more now. So they look at a bounded number of entries of the queue's index, or take one step for each owner.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from jobs.database.models import Job

HEAD = 1000
"""So many of the oldest jobs for each device are looked through before the owners are gone through one by one."""
MOST_COUNTED = 100
"""Of the jobs for each device that are before another, more are not counted."""

# Written out: for a parameter PostgreSQL could use the indexes of queued jobs only if it planned each query anew.
_QUEUED: ColumnElement[str] = literal_column("'queued'")
_PLACE = (Job.created_at, Job.id)


@dataclass(frozen=True)
class Wanted:
    """Which queued jobs a worker may claim."""

    devices: Mapping[str, int]
    """By the device that jobs may ask for, `auto` included: on how many of them at once."""
    newest_version: int
    """Of specifications."""
    left_out: Collection[str] = ()
    """Ids of jobs."""

    def conditions(self, job: Any, at_limit: Collection[str]) -> list[ColumnElement[bool]]:
        """Except for the device. `job` has the columns of a job; `at_limit` are the owners whose jobs wait."""
        return [
            job.spec_version <= self.newest_version,
            *([job.id.not_in(self.left_out)] if self.left_out else []),
            *([job.owner.not_in(at_limit)] if at_limit else []),
        ]


@dataclass(frozen=True)
class Claimable:
    """Which jobs for a device some worker may claim."""

    newest_version: int
    """Of specifications."""
    devices: int
    """On how many of them at once."""


@dataclass(frozen=True)
class JobsBefore:
    """How many queued jobs are before another."""

    counted: int
    complete: bool
    """False: there are others, which were not looked at."""


def oldest_queued(session: Session, wanted: Wanted, at_limit: Collection[str]) -> Job | None:
    """The oldest queued job that is wanted, and whose owner is not in `at_limit`; its row is locked.

    Jobs that others have locked are passed over.
    """
    devices = dict(wanted.devices)
    while devices:
        heads = _heads(session, devices, wanted, at_limit)
        first = min((head for head in heads if head.id is not None), key=_place, default=None)
        # Behind so many jobs that are not wanted there may be an older one that is.
        unseen = {head.device: devices[head.device] for head in heads if head.id is None and head.seen == HEAD}
        if unseen and _one_before(session, first, unseen, wanted, at_limit):
            if (job := _oldest_of_owners(session, unseen, wanted, at_limit)) is not None:
                return job
            devices = {device: count for device, count in devices.items() if device not in unseen}
            continue
        if first is None:
            return None
        enough = _has_enough(Job, first.device, devices[first.device])
        if (job := _lock_from(session, first, and_(enough, *wanted.conditions(Job, at_limit)))) is not None:
            return job
        del devices[first.device]  # others have locked all jobs for it
    return None


def _place(row: Row[Any]) -> tuple[datetime, str]:
    return row.created_at, row.id


def _one_before(
    session: Session, first: Row[Any] | None, devices: Mapping[str, int], wanted: Wanted, at_limit: Collection[str]
) -> bool:
    """Whether a job for one of the devices, locked or not, is wanted and before `first`."""
    found = session.execute(_first_of_owners(_fits(devices, wanted), at_limit)).one_or_none()
    return found is not None and (first is None or _place(found) < _place(first))


def _fits(devices: Mapping[str, int], wanted: Wanted) -> list[ColumnElement[bool]]:
    enough = or_(*(_has_enough(Job, device, count) for device, count in devices.items()))
    return [enough, *wanted.conditions(Job, ())]


def _oldest_of_owners(
    session: Session, devices: Mapping[str, int], wanted: Wanted, at_limit: Collection[str]
) -> Job | None:
    """Like `oldest_queued`, by one step in the index for each owner: it reads no jobs of those at the limit."""
    passed_over = set(at_limit)
    fits = _fits(devices, wanted)
    while (first := session.execute(_first_of_owners(fits, passed_over)).one_or_none()) is not None:
        if (job := _lock_from(session, first, and_(Job.owner == first.owner, *fits))) is not None:
            return job
        passed_over.add(first.owner)  # others have locked all of their jobs
    return None


def jobs_before(
    session: Session, job: Job, claimable: Mapping[str, Claimable], passed_over: Collection[str]
) -> JobsBefore:
    """The queued jobs that workers claim before `job`, at most MOST_COUNTED for each device.

    `claimable`: by the device that jobs ask for, those that a worker for it may claim.
    `passed_over`: the owners whose jobs wait.
    """
    counts = []
    for device, which in claimable.items():
        before = (
            select(Job.id, Job.owner, Job.spec_version, Job.devices)
            .where(Job.state == _QUEUED, Job.device == device, tuple_(*_PLACE) < tuple_(job.created_at, job.id))
            .order_by(Job.created_at.desc(), Job.id.desc())
            .limit(MOST_COUNTED)
            .subquery()
        )
        wanted = Wanted({}, which.newest_version).conditions(before.c, passed_over)
        counted = and_(before.c.devices <= which.devices, *wanted)
        numbers = (func.count().label("seen"), func.count().filter(counted).label("counted"))
        counts.append(select(*numbers).select_from(before))
    found = session.execute(union_all(*counts)).all()
    return JobsBefore(sum(row.counted for row in found), all(row.seen < MOST_COUNTED for row in found))


def _lock_from(session: Session, first: Row[Any], which: ColumnElement[bool]) -> Job | None:
    """The oldest job from `first` on that nobody has locked; nothing before it is read again."""
    place = tuple_(*_PLACE) >= tuple_(first.created_at, first.id)
    query = select(Job).where(Job.state == _QUEUED, place, which).order_by(*_PLACE).limit(1)
    query = query.with_for_update(skip_locked=True)
    return session.scalars(query, execution_options={"populate_existing": True}).one_or_none()


def _heads(
    session: Session, devices: Mapping[str, int], wanted: Wanted, at_limit: Collection[str]
) -> Sequence[Row[Any]]:
    """For each device, of its HEAD oldest jobs: how many there are (`seen`), and the place of the oldest that is
    wanted, locked or not. `id` is None if none is."""
    heads = []
    for device, count in devices.items():
        columns = (Job.id, Job.device, Job.devices, Job.created_at, Job.owner, Job.spec_version)
        head = select(*columns).where(Job.state == _QUEUED, Job.device == device).order_by(*_PLACE).limit(HEAD).cte()
        fits = (_has_enough(head.c, device, count), *wanted.conditions(head.c, at_limit))
        first = select(head.c.created_at, head.c.id).where(*fits).order_by(head.c.created_at, head.c.id).limit(1)
        oldest = first.subquery()
        seen = select(func.count()).select_from(head).scalar_subquery()
        name = literal(device).label("device")
        one = select(literal(1)).subquery()
        heads.append(select(name, seen.label("seen"), oldest).select_from(one.outerjoin(oldest, true())))
    return session.execute(union_all(*heads)).all()


def _has_enough(job: Any, device: str, count: int) -> ColumnElement[bool]:
    """Whether the job asks for this device, and for no more of them."""
    return and_(job.device == device, job.devices <= count)


def _first_of_owners(fits: Sequence[ColumnElement[bool]], passed_over: Collection[str]) -> Select[Any]:
    """Owner and place of the oldest job that fits, locked or not, of all owners but those that are passed over."""
    first = aliased(Job)
    owners = select(first.owner).where(first.state == _QUEUED).order_by(first.owner).limit(1).cte(recursive=True)
    following = aliased(Job)
    step = (
        select(following.owner)
        .where(following.state == _QUEUED, following.owner > owners.c.owner)
        .order_by(following.owner)
        .limit(1)
        .lateral()
    )
    owners = owners.union_all(select(step.c.owner).select_from(owners.join(step, true())))
    oldest = (
        select(*_PLACE)
        .where(Job.state == _QUEUED, Job.owner == owners.c.owner, *fits)
        .order_by(*_PLACE)
        .limit(1)
        .correlate(owners)
        .lateral()
    )
    firsts = select(owners.c.owner, oldest).select_from(owners.join(oldest, true()))
    firsts = firsts.where(owners.c.owner.not_in(passed_over))
    return firsts.order_by(oldest.c.created_at, oldest.c.id).limit(1)
