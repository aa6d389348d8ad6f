"""The queue: which job is next, and how many are before another.

Both must stay fast with 100,000 queued jobs: also where all but the last are for another device, or of an owner who may
run no more now. So they look at a bounded number of entries of the queue's index, or take one step for each owner.

The statements are made once: to make one takes longer than to run it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Select,
    Text,
    all_,
    and_,
    any_,
    bindparam,
    column,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.selectable import LateralFromClause

from jobs.database.models import Job

HEAD = 250
"""So many of the oldest jobs for each device are looked through before the owners are gone through one by one: that
costs about as much as the steps for a few dozen owners."""
MOST_COUNTED = 100
"""Of the jobs for each device that are before another, more are not counted."""

# Written out: for a parameter PostgreSQL could use the indexes of queued jobs only if it planned each query anew.
_QUEUED: ColumnElement[str] = literal_column("'queued'")


@dataclass(frozen=True)
class Claimable:
    """Which jobs for a device some worker may claim."""

    newest_version: int
    """Of specifications."""
    devices: int
    """On how many of them at once."""


@dataclass(frozen=True)
class Wanted:
    """Which queued jobs a worker may claim."""

    claimable: Mapping[str, Claimable]
    """By the device that jobs may ask for, `auto` included."""
    left_out: Collection[str] = ()
    """Ids of jobs."""
    at_limit: Collection[str] = ()
    """Owners whose jobs wait, because they run as many as they may."""


@dataclass(frozen=True)
class JobsBefore:
    """How many queued jobs are before another."""

    counted: int
    complete: bool
    """False: there are others, which were not looked at."""


class _Head(NamedTuple):
    """The HEAD oldest jobs for a device, one of which is wanted."""

    created_at: datetime
    id: str
    """With `created_at`: the place of the oldest that is wanted, locked or not."""
    device: str
    until: datetime
    """When the newest that is wanted was made."""
    seen: int
    """How many jobs these are."""


class _OfOwner(NamedTuple):
    """The jobs of an owner for a device and a number of devices, one of which is wanted."""

    created_at: datetime
    id: str
    """With `created_at`: the place of the oldest that is wanted, locked or not."""
    device: str
    devices: int
    owner: str


def oldest_queued(session: Session, wanted: Wanted) -> Job | None:
    """The oldest queued job that is wanted; its row is locked. Jobs that others have locked are passed over."""
    heads, unseen = _heads(session, wanted)
    parts: list[_Head | _OfOwner] = [*heads, *_of_owners(session, unseen, wanted)]
    while parts:
        first = min(parts, key=lambda part: (part.created_at, part.id))
        if (job := _lock_from(session, first, wanted)) is not None:
            return job
        parts.remove(first)  # others have locked all that are wanted
        if isinstance(first, _Head) and first.seen == HEAD:
            parts += _of_owners(session, [first.device], wanted)
    return None


def jobs_before(session: Session, job: Job, wanted: Wanted) -> JobsBefore:
    """The wanted jobs that workers claim before `job`, at most MOST_COUNTED for each device."""
    place = {"created_at": job.created_at, "id": job.id}
    found = session.execute(_JOBS_BEFORE, _parameters(wanted, wanted.claimable) | place).all()
    return JobsBefore(sum(row.counted for row in found), all(row.seen < MOST_COUNTED for row in found))


def _heads(session: Session, wanted: Wanted) -> tuple[list[_Head], list[str]]:
    """The heads in which a job is wanted; and the devices where none of so many is."""
    found = session.execute(_HEADS, _parameters(wanted, wanted.claimable)).all()
    heads = [_Head(*row) for row in found if row.id is not None]
    return heads, [row.device for row in found if row.id is None and row.seen == HEAD]


def _of_owners(session: Session, devices: Collection[str], wanted: Wanted) -> list[_OfOwner]:
    """All wanted jobs for the devices, by owner and number of devices."""
    if not devices:
        return []
    return [_OfOwner(*row) for row in session.execute(_OF_OWNERS, _parameters(wanted, devices))]


def _lock_from(session: Session, part: _Head | _OfOwner, wanted: Wanted) -> Job | None:
    """The oldest wanted job of this part of the queue that nobody has locked; nothing before its place is read."""
    statement = _LOCK_IN_HEAD if isinstance(part, _Head) else _LOCK_OF_OWNER
    claimable = wanted.claimable[part.device]
    limits = {"most": claimable.devices, "newest_version": claimable.newest_version}
    values = part._asdict() | limits | _passed_over(wanted)
    return session.scalars(statement, values, execution_options={"populate_existing": True}).one_or_none()


def _parameters(wanted: Wanted, devices: Collection[str]) -> dict[str, Any]:
    claimable = [wanted.claimable[device] for device in devices]
    return {
        "asked_devices": list(devices),
        "asked_counts": [which.devices for which in claimable],
        "asked_versions": [which.newest_version for which in claimable],
        **_passed_over(wanted),
    }


def _passed_over(wanted: Wanted) -> dict[str, Any]:
    return {"left_out": list(wanted.left_out), "at_limit": list(wanted.at_limit)}


_PLACE = (Job.created_at, Job.id)
_GIVEN_PLACE = tuple_(bindparam("created_at", type_=DateTime(timezone=True)), bindparam("id", type_=Text))
_AT_LIMIT = bindparam("at_limit", type_=ARRAY(Text))
# A row for each device that is asked for.
_ASKED = (
    func.unnest(
        bindparam("asked_devices", type_=ARRAY(Text)),
        bindparam("asked_counts", type_=ARRAY(BigInteger)),
        bindparam("asked_versions", type_=ARRAY(BigInteger)),
    )
    .table_valued(column("device", Text), column("most", BigInteger), column("newest_version", BigInteger))
    .render_derived(name="asked")
)


class _Limits(NamedTuple):
    """What a worker can run on a device."""

    most: ColumnElement[int]
    """So many devices."""
    newest_version: ColumnElement[int]
    """Of specifications."""


def _fits(job: Any, asked: Any) -> ColumnElement[bool]:
    """Whether a worker can run a job on its device. `job` has the columns of a job, `asked` those of _Limits."""
    return and_(
        job.devices <= asked.most,
        job.spec_version <= asked.newest_version,
        job.id != all_(bindparam("left_out", type_=ARRAY(Text))),
    )


def _is_wanted(job: Any, asked: Any) -> ColumnElement[bool]:
    return and_(_fits(job, asked), job.owner != all_(_AT_LIMIT))


def _make_heads() -> Select[Any]:
    """A row with the values of a _Head for each device; its place is None where no job is wanted."""
    columns = (Job.id, Job.devices, Job.created_at, Job.owner, Job.spec_version)
    queued = select(*columns).where(Job.state == _QUEUED, Job.device == _ASKED.c.device)
    head = queued.order_by(*_PLACE).limit(literal_column(str(HEAD))).lateral()
    wanted = _is_wanted(head.c, _ASKED.c)
    ids = func.array_agg(aggregate_order_by(head.c.id, head.c.created_at, head.c.id), type_=ARRAY(Text))
    return (
        select(
            func.min(head.c.created_at).filter(wanted).label("created_at"),
            ids.filter(wanted)[literal_column("1")].label("id"),
            _ASKED.c.device,
            func.max(head.c.created_at).filter(wanted).label("until"),
            func.count(head.c.id).label("seen"),
        )
        .select_from(_ASKED.outerjoin(head, true()))
        .group_by(_ASKED.c.device)
    )


def _make_of_owners() -> Select[Any]:
    """A row with the values of an _OfOwner for each owner who may run more, by a step through the index for each."""
    first = _step(_ASKED.c)
    found = select(_ASKED, first).join_from(_ASKED, first, true()).cte("found", recursive=True)
    following = _step(found.c, tuple_(found.c.devices, found.c.owner))
    asked = (found.c.device, found.c.most, found.c.newest_version)
    found = found.union_all(select(*asked, following).join_from(found, following, true()))
    query = select(found.c.created_at, found.c.id, found.c.device, found.c.devices, found.c.owner)
    return query.where(found.c.owner != all_(_AT_LIMIT))


def _step(asked: Any, after: ColumnElement[Any] | None = None) -> LateralFromClause:
    """The next job for the device in `asked` that fits, by number of devices and owner: the oldest of this owner.

    An owner at the limit is stopped at in any case: otherwise all jobs of such an owner could be read. Jobs of newer
    versions of the specification are read until one fits; older workers meet them only during an upgrade.
    """
    job = aliased(Job)
    queued = select(job.devices, job.owner, job.created_at, job.id).where(
        job.state == _QUEUED,
        job.device == asked.device,
        job.devices <= asked.most,  # ends the scan, which it could not within `or_`
        or_(job.owner == any_(_AT_LIMIT), _fits(job, asked)),
        *([] if after is None else [tuple_(job.devices, job.owner) > after]),
    )
    return queued.order_by(job.devices, job.owner, job.created_at, job.id).limit(literal_column("1")).lateral()


def _make_lock(*part: ColumnElement[bool]) -> Select[Job]:
    """The oldest wanted job of a part of the queue that nobody has locked, from a place on."""
    for_device = Job.device == bindparam("device", type_=Text)
    place = tuple_(*_PLACE) >= _GIVEN_PLACE
    # Not from _ASKED: of a join, the planner could sort all rows before it locks the first.
    limits = _Limits(bindparam("most", type_=BigInteger), bindparam("newest_version", type_=BigInteger))
    query = select(Job).where(Job.state == _QUEUED, for_device, place, _is_wanted(Job, limits), *part)
    return query.order_by(*_PLACE).limit(literal_column("1")).with_for_update(skip_locked=True)


def _make_jobs_before() -> Select[int, int]:
    """A row for each device: how many jobs are before a place, and how many of these are wanted."""
    columns = (Job.id, Job.owner, Job.spec_version, Job.devices)
    place = tuple_(*_PLACE) < _GIVEN_PLACE
    queued = select(*columns).where(Job.state == _QUEUED, Job.device == _ASKED.c.device, place)
    newest_first = queued.order_by(Job.created_at.desc(), Job.id.desc())
    before = newest_first.limit(literal_column(str(MOST_COUNTED))).lateral()
    seen = func.count(before.c.id)
    counted = seen.filter(_is_wanted(before.c, _ASKED.c))
    query = select(seen.label("seen"), counted.label("counted")).select_from(_ASKED.outerjoin(before, true()))
    return query.group_by(_ASKED.c.device)


_HEADS = _make_heads()
_OF_OWNERS = _make_of_owners()
_LOCK_IN_HEAD = _make_lock(Job.created_at <= bindparam("until", type_=DateTime(timezone=True)))
_LOCK_OF_OWNER = _make_lock(
    Job.devices == bindparam("devices", type_=BigInteger), Job.owner == bindparam("owner", type_=Text)
)
_JOBS_BEFORE = _make_jobs_before()
