"""Advances studies: stops and creates trials as its kind says, and finishes the study.

Any process may call `advance` at any time and any number of times. If there is nothing to do, it changes nothing. A
worker calls it when a trial has finished. Housekeeping calls it too, in case the worker died before it could. So no
study depends on a single process.

Locks are taken in one order: the study's row, then its jobs' rows. Never lock a study while you hold one of its jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from jobs.broker.queues import queues_for
from jobs.database.connection import clock
from jobs.database.models import Job, Study
from jobs.database.notifications import notify
from jobs.ledger import creation, owned_jobs, quotas, workers
from jobs.ledger.creation import NewJob, TrialOfStudy
from jobs.ledger.requests import upload_ids
from jobs.ledger.stored_specs import Unreadable
from jobs.studies.kinds.table import make_table
from jobs.studies.kinds.trials import (
    Key,
    Kind,
    NextSteps,
    StudySpec,
    Trial,
    TrialStopReason,
)
from jobs.studies.stored_specs import is_newer, read_study
from jobs.studies.trial_rows import count_finished, read_trials
from jobs.webhooks import outbox
from lit_spec import JobRequest, JobSpec, SpecError, resolve
from lit_spec.answers.owners import Quotas
from lit_spec.errors import StudyError, StudyErrorType
from lit_spec.requests.study import STUDY_VERSION
from lit_spec.states import FINISHED_STATES, JobState, StudyState

QUEUED_PER_WORKER = 4
"""Queued trials per live worker: enough to keep it busy, and few enough that other jobs get their turn."""


def due(session: Session) -> list[str]:
    """The ids of the running studies that may have to be advanced."""
    finished = (
        select(func.count())
        .where(Job.study_id == Study.id, Job.state.in_(FINISHED_STATES))
        .correlate(Study)
        .scalar_subquery()
    )
    waits = exists().where(Job.study_id == Study.id, Job.state == JobState.QUEUED).correlate(Study)
    query = select(Study.id).where(
        Study.state == StudyState.RUNNING,
        # Newer ones are left to processes of a newer version.
        Study.study_version <= STUDY_VERSION,
        # If no trial is queued, workers may be idle, because more are live than before.
        or_(Study.reads_curves, finished != Study.finished_jobs, ~waits),
    )
    return list(session.scalars(query.order_by(Study.created_at)))


def advance(session: Session, study_id: str, defaults: Quotas = quotas.NO_QUOTAS) -> list[str]:
    """Stop, create and finish what its kind says. Returns a queue for each new job, to wake as many workers.

    `defaults`: the quotas of owners without their own. Trials that don't fit into the owner's quota are made later.

    Does nothing if the study is finished or deleted.
    """
    query = select(Study).where(Study.id == study_id).with_for_update()
    study = session.scalars(query, execution_options={"populate_existing": True}).one_or_none()
    if study is None or study.state != StudyState.RUNNING:
        return []
    return advance_locked(session, study, defaults)


def advance_locked(session: Session, study: Study, defaults: Quotas = quotas.NO_QUOTAS) -> list[str]:
    """Like `advance`, for a running study whose row the caller has locked."""
    if is_newer(study):
        return []
    try:
        spec, kind = read_study(study)
    except Unreadable as wrong:
        _give_up(session, study, wrong)
        return []
    # Counted before the trials are read: a trial that finishes in between makes the study due again.
    finished_jobs = count_finished(session, study.id)
    trials = read_trials(session, study, kind)
    width = max(len(workers.live(session)), 1)
    steps = NextSteps[Key]() if study.cancel_requested_at is not None else kind.next_steps(trials, width)
    try:
        wanted = steps.new[: _room(trials.values(), width)]
        if wanted:
            wanted = wanted[: quotas.room_for_jobs(session, study.owner, defaults)]
        new = [_resolved(spec, kind, key) for key in wanted]
    except (SpecError, ValidationError) as refused:
        detail = f"this version of LIT refuses a trial of the study ({refused}): create the study again"
        steps, new = NextSteps(failure=StudyError(type=StudyErrorType.OUTDATED, detail=detail)), []
    stopped = _stop(session, steps, trials)
    jobs = [_create(session, study, trial) for trial in new]
    finishes = (steps.decided or study.cancel_requested_at is not None) and not _has_live_trials(session, study.id)
    if finishes:
        _finish(session, study, kind, steps)
    if jobs or stopped or finishes or finished_jobs != study.finished_jobs:
        study.finished_jobs = finished_jobs
        study.version += 1
        session.flush()
        notify(session, study.id)
    if finishes:
        outbox.study_changed(session, study)
    return [queue for job in jobs for queue in queues_for(job.device)]


@dataclass(frozen=True)
class _NewTrial:
    key: Key
    request: JobRequest
    spec: JobSpec


def _room(trials: Iterable[Trial], width: int) -> int:
    waiting = sum(trial.state is JobState.QUEUED for trial in trials)
    return max(QUEUED_PER_WORKER * width - waiting, 0)


def _resolved(spec: StudySpec, kind: Kind[Any], key: Key) -> _NewTrial:
    request = JobRequest.model_validate(kind.request(key))
    return _NewTrial(key, request, resolve(request, spec.inspection, spec.discriminator))


def _create(session: Session, study: Study, new: _NewTrial) -> Job:
    trial = TrialOfStudy(study.id, new.key.stored(), study.round)
    needed = dict.fromkeys(upload_ids(new.request))
    return creation.create(session, NewJob(study.owner, new.request, new.spec, needed, trial=trial))


def _stop(session: Session, steps: NextSteps[Key], trials: Mapping[Key, Trial]) -> bool:
    """Stop the trials that `steps` names, or all live ones if the study is decided. Returns whether any was stopped."""
    reasons = dict(steps.stop)
    if steps.decided:
        reasons = dict.fromkeys(trials, TrialStopReason.UNNEEDED) | reasons
    to_stop = [key for key in reasons if trials[key].live and trials[key].stopped is None]
    for key in to_stop:
        query = select(Job).where(Job.id == trials[key].job_id).with_for_update()
        job = session.scalars(query, execution_options={"populate_existing": True}).one()
        owned_jobs.cancel_locked(session, job, stopped=reasons[key])
    return bool(to_stop)


def _give_up(session: Session, study: Study, wrong: Unreadable) -> None:
    """Stop the trials of a study that this version can't read. The study finishes once no trial is live."""
    stopped = cancel_live_trials(session, study.id, TrialStopReason.UNNEEDED)
    study.finished_jobs = count_finished(session, study.id)
    finishes = not _has_live_trials(session, study.id)
    if finishes:
        study.finished_at = clock(session)
        study.state = StudyState.CANCELLED if study.cancel_requested_at is not None else StudyState.FAILED
        if study.state == StudyState.FAILED:
            error = StudyError(type=StudyErrorType.OUTDATED, detail=f"{wrong}: create the study again")
            study.error = error.model_dump(mode="json")
    if stopped or finishes:
        study.version += 1
        session.flush()
        notify(session, study.id)
    if finishes:
        outbox.study_changed(session, study)


def cancel_live_trials(session: Session, study_id: str, stopped: TrialStopReason | None = None) -> bool:
    """Cancel the trials of a study whose row the caller has locked. Returns whether any was told only now."""
    live = select(Job).where(Job.study_id == study_id, Job.state.not_in(FINISHED_STATES)).order_by(Job.id)
    jobs = session.scalars(live.with_for_update(), execution_options={"populate_existing": True}).all()
    new = [job for job in jobs if job.cancel_requested_at is None]
    for job in new:
        owned_jobs.cancel_locked(session, job, stopped=stopped)
    return bool(new)


def _has_live_trials(session: Session, study_id: str) -> bool:
    query = select(Job.id).where(Job.study_id == study_id, Job.state.not_in(FINISHED_STATES)).limit(1)
    return session.scalars(query).one_or_none() is not None


def _finish(session: Session, study: Study, kind: Kind[Any], steps: NextSteps[Key]) -> None:
    table = make_table(kind, read_trials(session, study, kind))
    study.finished_at = clock(session)
    study.result = {
        "choice": steps.choice.values if steps.choice else None,
        "best_job": steps.choice.job_id if steps.choice else None,
        "table": table.model_dump(mode="json"),
    }
    if steps.choice is not None:
        study.state = StudyState.SUCCEEDED
    elif steps.failure is not None:
        study.state = StudyState.FAILED
        study.error = steps.failure.model_dump(mode="json")
    else:
        study.state = StudyState.CANCELLED
