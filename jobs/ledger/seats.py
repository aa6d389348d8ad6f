"""Seats: the places of the workers that join the attempt of another one, for jobs with several nodes.

The worker that has claimed such a job is its node 0 and offers a seat for each other node, with the endpoint at which
its trainer will wait. Free workers take seats before they claim jobs. Each seat has its own lease, and the fence is the
job's: a seat counts as long as its attempt has the job. When the attempt ends, for whatever reason, its seats are gone,
which a worker that still holds one notices with its next heartbeat. When the lease of a seat expires, the attempt is
lost, as when that of the job expires.

    open -> taken -> left (its part of the training is done)
    open, taken, left -> gone (the attempt has ended)

Whoever opens or takes a seat has locked the job's row before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, exists, func, insert, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from jobs.database.models import Job, Seat
from jobs.errors import Stale
from jobs.ledger.stored_specs import Unreadable, read_job_spec
from jobs.ledger.times import seconds_from_now
from jobs.ledger.transitions import Event, change
from lit_spec import JobSpec
from lit_spec.states import JobState


@dataclass(frozen=True)
class TakenSeat:
    """A worker's place in another one's attempt, with everything that it needs to run its part."""

    job_id: str
    attempt: int
    node: int
    worker_id: str
    owner: str
    endpoint: str
    """host:port of node 0."""
    spec: JobSpec
    device: str
    checkpoint: str | None
    """As for node 0, which tells all others what it has read."""


def joinable(
    devices: Sequence[str], processes: Mapping[str, int], spec_versions: Sequence[int], left_out: Collection[str] = ()
) -> ColumnElement[bool]:
    """Which jobs have an open seat for a worker: it runs what node 0 runs on, and as many processes on it.

    `left_out`: ids of jobs.
    """
    with_open_seat = exists().where(Seat.job_id == Job.id, Seat.worker_id.is_(None)).correlate(Job)
    has_device = or_(
        *(and_(Job.worker_device == device, Job.devices <= processes.get(device, 1)) for device in devices)
    )
    return and_(
        Job.state == JobState.RUNNING,
        Job.nodes > 1,
        Job.spec_version <= max(spec_versions),
        Job.id.not_in(left_out),
        has_device,
        with_open_seat,
    )


def offer(session: Session, job: Job, endpoint: str) -> None:
    """Open the seats of a job that the caller has just claimed, whose row is locked."""
    session.execute(
        insert(Seat),
        [
            {"job_id": job.id, "node": node, "attempt": job.attempt, "endpoint": endpoint}
            for node in range(1, job.nodes)
        ],
    )


def still_open(session: Session, job_id: str, attempt: int) -> int:
    """Number of seats that nobody has taken yet. Raises Stale if the attempt no longer has the job."""
    held = exists().where(Job.id == job_id, Job.attempt == attempt, Job.state == JobState.RUNNING)
    open_seats = select(func.count()).where(Seat.job_id == job_id, Seat.worker_id.is_(None))
    row = session.execute(select(open_seats.scalar_subquery(), select(held).scalar_subquery())).one()
    if not row[1]:
        raise Stale
    return int(row[0])


def an_older_one_waits(session: Session, job_id: str, joinable: ColumnElement[bool]) -> bool:
    """Whether a job that was claimed by another worker and made earlier than this one is `joinable`.

    Two jobs that wait for each other's worker would wait for ever, so the younger one goes back to the queue.
    """
    own = aliased(Job)
    older = (
        select(Job.id)
        .join(own, tuple_(Job.created_at, Job.id) < tuple_(own.created_at, own.id))
        .where(own.id == job_id, joinable)
        .limit(1)
    )
    return session.scalar(older) is not None


def take(session: Session, worker_id: str, joinable: ColumnElement[bool], lease_seconds: float) -> TakenSeat | None:
    """Take a seat of the oldest job that is `joinable`. None if there is none."""
    query = select(Job).where(joinable).order_by(Job.created_at, Job.id).limit(1).with_for_update(skip_locked=True)
    job = session.scalars(query, execution_options={"populate_existing": True}).one_or_none()
    if job is None:
        return None
    seat = session.scalars(
        select(Seat).where(Seat.job_id == job.id, Seat.worker_id.is_(None)).order_by(Seat.node).limit(1)
    ).one_or_none()
    if seat is None or job.worker_device is None:
        return None  # taken while this transaction waited for the row
    try:
        spec = read_job_spec(job)
    except Unreadable:
        return None  # its own worker could read it; one of that version will take the seat
    seat.worker_id = worker_id
    session.flush()
    session.execute(
        update(Seat)
        .where(Seat.job_id == seat.job_id, Seat.node == seat.node)
        .values(lease_expires_at=seconds_from_now(lease_seconds))
    )
    change(session, job, [Event("joined", {"worker": worker_id, "node": seat.node})])
    return TakenSeat(
        job_id=job.id,
        attempt=job.attempt,
        node=seat.node,
        worker_id=worker_id,
        owner=job.owner,
        endpoint=seat.endpoint,
        spec=spec,
        device=job.worker_device,
        checkpoint=job.checkpoint,
    )


def devices_wanted(session: Session) -> list[str]:
    """The devices of workers that could take a seat."""
    query = select(Job.worker_device).join(Seat, Seat.job_id == Job.id).where(Seat.worker_id.is_(None)).distinct()
    return [device for device in session.scalars(query) if device is not None]


def renew(session: Session, seat: TakenSeat, lease_seconds: float) -> None:
    """Renew the seat's lease. Raises Stale when the attempt has ended."""
    _update(session, seat, lease_expires_at=seconds_from_now(lease_seconds))


def leave(session: Session, seat: TakenSeat) -> None:
    """The worker's part is done; node 0 finishes the attempt. Raises Stale when the attempt has ended."""
    _update(session, seat, lease_expires_at=None)


def expired() -> ColumnElement[bool]:
    """Whether the lease of one of the job's seats has expired."""
    return exists().where(Seat.job_id == Job.id, Seat.lease_expires_at < func.clock_timestamp())


def _update(session: Session, seat: TakenSeat, **values: object) -> None:
    held = and_(
        Seat.job_id == seat.job_id,
        Seat.node == seat.node,
        Seat.attempt == seat.attempt,
        Seat.worker_id == seat.worker_id,
    )
    changed = session.execute(update(Seat).where(held).values(**values).returning(Seat.node)).one_or_none()
    if changed is None:
        raise Stale
