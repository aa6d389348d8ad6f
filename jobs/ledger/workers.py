"""Registrations: which training workers live, what they can do and what they are doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobs.database.models import Worker

LIVE_SECONDS = 30.0
FORGOTTEN_SECONDS = 3600.0
NO_MORE_THAN_ONE: Mapping[str, int] = MappingProxyType({})
"""A device that is left out runs one process of a job."""


def register(
    session: Session,
    worker_id: str,
    hostname: str,
    devices: Sequence[str],
    spec_versions: Sequence[int],
    processes: Mapping[str, int] = NO_MORE_THAN_ONE,
) -> None:
    """Add the worker, or renew its row. `processes`: by device, how many processes of one job it can run."""
    able = {
        "hostname": hostname,
        "devices": list(devices),
        "spec_versions": list(spec_versions),
        "processes": dict(processes),
    }
    statement = insert(Worker).values(id=worker_id, **able)
    again = {**able, "last_seen": func.clock_timestamp()}
    session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=again))


def renew(session: Session, worker_id: str, job_id: str | None) -> None:
    """The worker lives and runs `job_id`, or nothing."""
    session.execute(
        update(Worker).where(Worker.id == worker_id).values(last_seen=func.clock_timestamp(), job_id=job_id)
    )


def remove(session: Session, worker_id: str) -> None:
    session.execute(delete(Worker).where(Worker.id == worker_id))


def live(session: Session, within_seconds: float = LIVE_SECONDS) -> list[Worker]:
    """The workers whose registration was renewed lately."""
    return list(session.scalars(select(Worker).where(Worker.last_seen > _ago(within_seconds)).order_by(Worker.id)))


def most_processes(worker: Worker, device: str) -> int:
    """How many processes of one job the worker can run on one of its devices."""
    return int(worker.processes.get(device, 1))


def forget_dead(session: Session) -> None:
    """Remove the registrations that were not renewed for an hour."""
    session.execute(delete(Worker).where(Worker.last_seen < _ago(FORGOTTEN_SECONDS)))


def _ago(seconds: float) -> ColumnElement[datetime]:
    return func.statement_timestamp() - timedelta(seconds=seconds)
