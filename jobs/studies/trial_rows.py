"""Reads the trials of studies from the ledger."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, TableValuedAlias, case, column, func, or_, select, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from jobs.database.models import EpochMetrics, Job, Study
from jobs.studies.kinds.trial_results import MEASURES, plan_of, trial_result_of
from jobs.studies.kinds.trials import EpochKey, Key, Kind, Trial, TrialStopReason
from lit_spec import Phase
from lit_spec.states import FINISHED_STATES, JobState

SELECTED_BY = ("student_accuracy", "psnr", "agreement")
"""A trial's best epoch is selected by the first of these metrics that the trial has."""
_PHASES = {Phase.LIT.value: 0, Phase.FINE_TUNE.value: 1}
"""The epochs of the operations of `then` belong to other students."""


@dataclass(frozen=True)
class Progress:
    """How many trials of a study are in which state."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    """By someone."""
    stopped: int = 0
    """By the study itself."""


def read_trials(session: Session, study: Study, kind: Kind[Any]) -> dict[Key, Trial]:
    """The trials that count: all but the failed and cancelled ones of earlier rounds."""
    report = _report()
    query = (
        select(
            Job.id, Job.trial, Job.state, Job.trial_stopped, _parts(report).label("result"), _plan(report).label("plan")
        )
        .outerjoin(report, true())
        .where(Job.study_id == study.id, _counts(study.round))
        .order_by(Job.trial_round, Job.created_at)
    )
    rows = session.execute(query).all()
    curves = _curves(session, [row.id for row in rows]) if kind.reads_curves else {}
    return {
        kind.key(row.trial): Trial(
            job_id=row.id,
            state=JobState(row.state),
            stopped=None if row.trial_stopped is None else TrialStopReason(row.trial_stopped),
            result=trial_result_of(row.result) if row.state == JobState.SUCCEEDED else None,
            plan=plan_of(row.plan) if row.state == JobState.SUCCEEDED else None,
            curve=curves.get(row.id, {}),
        )
        for row in rows
    }


def count_finished(session: Session, study_id: str) -> int:
    """The number of finished jobs, of all rounds."""
    query = select(func.count()).where(Job.study_id == study_id, Job.state.in_(FINISHED_STATES))
    return session.execute(query).scalar_one()


def read_progress(session: Session, studies: Iterable[Study]) -> dict[str, Progress]:
    """The progress of each study, in one query."""
    stopped = Job.trial_stopped.is_not(None)
    query = (
        select(Study.id, Job.state, stopped.label("stopped"), func.count().label("jobs"))
        .join(Study, Study.id == Job.study_id)
        .where(Job.study_id.in_([study.id for study in studies]), _counts(Study.round))
        .group_by(Study.id, Job.state, stopped)
    )
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for study_id, state, by_study, jobs in session.execute(query):
        name = "stopped" if by_study and state == JobState.CANCELLED else state
        counted[study_id][name] += jobs
    return {study_id: Progress(**counts) for study_id, counts in counted.items()}


def _report() -> TableValuedAlias:
    """A job's result, taken apart once by the database, because it is large and a study may have thousands."""
    columns = [column(name, JSONB) for name in ("selected", "student", "students", "teacher", "seconds")]
    return func.jsonb_to_record(Job.result).table_valued(*columns, name="report").render_derived(with_types=True)


def _parts(report: TableValuedAlias) -> ColumnElement[Any]:
    """What `trial_result_of` reads of it."""
    networks = [
        (name, func.jsonb_build_object(*(part for field in MEASURES for part in (field, report.c[name][field]))))
        for name in ("student", "teacher")
    ]
    kept = [(name, report.c[name]) for name in ("selected", "seconds")]
    return func.jsonb_build_object(*(part for pair in (*kept, *networks) for part in pair))


def _plan(report: TableValuedAlias) -> ColumnElement[Any]:
    """The whole result of a job that measured a range of students."""
    return case((report.c.students.is_not(None), Job.result))


def _counts(round: Any) -> ColumnElement[bool]:
    """Trials that failed or were cancelled before the study was resumed don't count: they are made again."""
    return or_(Job.trial_round == round, Job.state == JobState.SUCCEEDED, Job.trial_stopped.is_not(None))


def _curves(session: Session, job_ids: Sequence[str]) -> dict[str, dict[EpochKey, float]]:
    values = func.jsonb_build_array(*(EpochMetrics.values[name] for name in SELECTED_BY))
    query = select(EpochMetrics.job_id, EpochMetrics.phase, EpochMetrics.epoch, values)
    query = query.where(EpochMetrics.job_id.in_(job_ids), EpochMetrics.phase.in_(_PHASES))
    curves: dict[str, dict[str, dict[EpochKey, float]]] = defaultdict(lambda: defaultdict(dict))
    for job_id, phase, epoch, found in session.execute(query):
        for name, value in zip(SELECTED_BY, found, strict=True):
            if value is not None:
                curves[job_id][name][_PHASES[phase], epoch] = float(value)
    return {
        job_id: next(by_name[name] for name in SELECTED_BY if name in by_name) for job_id, by_name in curves.items()
    }
