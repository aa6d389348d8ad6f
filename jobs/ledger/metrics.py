"""The metrics of jobs: numbers by phase, epoch and name, stored in one row for each epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import case, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobs.database.models import EpochMetrics
from lit_spec import Phase

EPOCHS_PER_STATEMENT = 1000
_PHASES_IN_ORDER = {phase.value: place for place, phase in enumerate(Phase)}


@dataclass(frozen=True)
class Metric:
    phase: str
    epoch: int
    name: str
    value: float


def write(session: Session, job_id: str, attempt: int, metrics: Sequence[Metric]) -> None:
    """Write metrics; the caller has locked the job's row. A number that is there already is replaced."""
    # One row for each epoch: a statement must not change the same row twice.
    epochs = defaultdict[tuple[str, int], dict[str, float]](dict)
    for metric in metrics:
        epochs[metric.phase, metric.epoch][metric.name] = metric.value
    rows = [
        {"job_id": job_id, "attempt": attempt, "phase": phase, "epoch": epoch, "values": values}
        for (phase, epoch), values in epochs.items()
    ]
    for start in range(0, len(rows), EPOCHS_PER_STATEMENT):
        statement = insert(EpochMetrics).values(rows[start : start + EPOCHS_PER_STATEMENT])
        new = statement.excluded
        together = {"values": EpochMetrics.values.concat(new["values"]), "attempt": new.attempt}
        session.execute(statement.on_conflict_do_update(index_elements=["job_id", "phase", "epoch"], set_=together))


def read(session: Session, job_id: str, *, phase: str | None = None, name: str | None = None) -> list[Metric]:
    """All numbers of a job, ordered by phase, epoch and name."""
    query = select(EpochMetrics.phase, EpochMetrics.epoch, EpochMetrics.values).where(EpochMetrics.job_id == job_id)
    if phase is not None:
        query = query.where(EpochMetrics.phase == phase)
    place = case(_PHASES_IN_ORDER, value=EpochMetrics.phase)
    return [
        Metric(of_phase, epoch, each, float(value))
        for of_phase, epoch, values in session.execute(query.order_by(place, EpochMetrics.epoch))
        for each, value in sorted(values.items())
        if name is None or each == name
    ]
