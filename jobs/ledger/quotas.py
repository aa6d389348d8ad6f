"""Quotas: how many jobs of an owner may be queued and run, and how many bytes they may store.

What the service gives to every owner comes from its settings, as `defaults`; what an administrator has set for one
owner is a row. Where a limit applies, those who count towards it take turns by an advisory lock, so that two requests
at once can't both be the last one that fits. Without a limit nobody counts and nobody waits.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, case, cast, func, literal, null, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobs.database.models import Job, OwnerBytes, OwnerQuotas
from jobs.errors import QuotaExceeded
from jobs.ledger import audit
from lit_spec.answers.owners import QuotaName, Quotas, Usage
from lit_spec.states import JobState

NO_QUOTAS = Quotas()


def effective(session: Session, owner: str, defaults: Quotas) -> Quotas:
    """What an owner may use."""
    limits = session.scalars(select(OwnerQuotas.limits).where(OwnerQuotas.owner == owner)).one_or_none()
    return defaults.model_copy(update=limits or {})


def replace(session: Session, owner: str, limits: dict[str, int | None]) -> None:
    """Set an owner's quotas, by their names; None is no limit. Those that are not named are the service's."""
    statement = insert(OwnerQuotas).values(owner=owner, limits=limits)
    changed = {"limits": statement.excluded.limits, "updated_at": func.clock_timestamp()}
    session.execute(statement.on_conflict_do_update(index_elements=["owner"], set_=changed))
    audit.record(session, "quotas.set", owner, detail=dict(limits))


def usage(session: Session, owner: str) -> Usage:
    return Usage(
        jobs_queued=_count(session, owner, JobState.QUEUED),
        jobs_running=_count(session, owner, JobState.RUNNING),
        bytes=_stored(session, owner),
    )


def require_room_for_job(session: Session, owner: str, defaults: Quotas) -> None:
    """Until this transaction ends, no other adds to the owner's queued jobs. Raises QuotaExceeded."""
    allowed = effective(session, owner, defaults).jobs_queued
    if allowed is None:
        return
    used = _count_in_turn(session, owner)
    if used >= allowed:
        raise QuotaExceeded(
            QuotaName.JOBS_QUEUED,
            used,
            allowed,
            f"{owner} has {used} queued jobs, and {allowed} are allowed: wait until one has started, or cancel one",
        )


def room_for_jobs(session: Session, owner: str, defaults: Quotas) -> int | None:
    """How many more jobs of the owner may be queued; None: any number.

    Until this transaction ends, no other adds to them.
    """
    allowed = effective(session, owner, defaults).jobs_queued
    return None if allowed is None else max(allowed - _count_in_turn(session, owner), 0)


def _count_in_turn(session: Session, owner: str) -> int:
    """The owner's queued jobs. Until this transaction ends, no other adds to them."""
    _take_turns(session, QuotaName.JOBS_QUEUED, owner)
    return _count(session, owner, JobState.QUEUED)


def require_room_for_bytes(session: Session, owner: str, size: int, defaults: Quotas) -> None:
    """Room for an upload of so many bytes. Until this transaction ends, no other takes it. Raises QuotaExceeded."""
    allowed = effective(session, owner, defaults).bytes
    if allowed is None:
        return
    if size:
        _take_turns(session, QuotaName.BYTES, owner)
    used = _stored(session, owner)
    if used + size > allowed:
        more = f", and this upload has {size}" if size else ""
        raise QuotaExceeded(
            QuotaName.BYTES,
            used,
            allowed,
            f"{owner} has {used} bytes stored{more}, and {allowed} are allowed: delete uploads or jobs",
        )


def may_run(session: Session, owner: str, defaults: Quotas) -> bool:
    """Whether one more job of the owner may run. Until this transaction ends, no other starts one.

    While another transaction may be starting one, the answer is no: it may stand still, and the caller holds locks.
    """
    allowed = effective(session, owner, defaults).jobs_running
    if allowed is None:
        return True
    if not session.scalar(select(func.pg_try_advisory_xact_lock(_turn(QuotaName.JOBS_RUNNING, owner)))):
        return False
    return _count(session, owner, JobState.RUNNING) < allowed


def owners_at_limit(session: Session, defaults: Quotas) -> set[str]:
    """The owners of whom no more jobs may run now."""
    limits = OwnerQuotas.limits
    name = QuotaName.JOBS_RUNNING.value
    own: ColumnElement[Any] = cast(limits[name].astext, BigInteger)
    default = null() if defaults.jobs_running is None else literal(defaults.jobs_running, BigInteger)
    allowed = case((limits.has_key(name), own), else_=default)
    full = (
        select(Job.owner)
        .outerjoin(OwnerQuotas, OwnerQuotas.owner == Job.owner)
        .where(Job.state == JobState.RUNNING)
        .group_by(Job.owner, OwnerQuotas.owner)
        .having(func.count() >= allowed)
    )
    barred = select(OwnerQuotas.owner).where(own == 0)
    return set(session.scalars(union_all(full, barred)))


def _take_turns(session: Session, quota: QuotaName, owner: str) -> None:
    session.execute(select(func.pg_advisory_xact_lock(_turn(quota, owner))))


def _turn(quota: QuotaName, owner: str) -> ColumnElement[int]:
    return func.hashtextextended(f"quota {quota.value}\n{owner}", 0)


def _count(session: Session, owner: str, state: JobState) -> int:
    query = select(func.count()).where(Job.owner == owner, Job.state == state.value)
    return session.execute(query).scalar_one()


def _stored(session: Session, owner: str) -> int:
    """Bytes of uploads, by their announced sizes, and of the files of jobs."""
    found = session.scalars(select(OwnerBytes.bytes).where(OwnerBytes.owner == owner)).one_or_none()
    return found or 0
