"""Studies as their owner sees them: create, read, list, cancel, resume, delete."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database.connection import clock
from jobs.database.models import Job, Study, StudyUpload
from jobs.database.notifications import notify
from jobs.errors import Conflict
from jobs.ids import new_id
from jobs.ledger import quotas, uploads
from jobs.ledger.idempotency import IdempotentRequest, find_study, remember
from jobs.ledger.owned_rows import PageCursor, find_owned, labelled_page
from jobs.ledger.requests import upload_ids
from jobs.ledger.stored_specs import Unreadable
from jobs.storage import layout
from jobs.studies.advance import advance_locked, cancel_live_trials
from jobs.studies.kinds.kind_of import kind_of
from jobs.studies.kinds.trials import StudySpec
from jobs.studies.stored_specs import read_study
from jobs.studies.trial_rows import read_progress
from jobs.tracking import runs
from jobs.webhooks import outbox
from lit_spec.answers.owners import Quotas
from lit_spec.requests.study import STUDY_VERSION
from lit_spec.states import StudyState


def create(
    session: Session,
    owner: str,
    request: dict[str, Any],
    spec: StudySpec,
    *,
    idempotency: IdempotentRequest | None,
    defaults: Quotas = quotas.NO_QUOTAS,
) -> tuple[Study, list[str]]:
    """Add a study with its first trials, or return the one that the same idempotent request made earlier.

    Also returns a queue for each new job. `request` is stored as it came. `defaults`: the quotas of owners without
    their own. Raises Conflict `idempotency-key-reused` when the key belongs to another request, NotFound when one of
    the uploads was deleted, and QuotaExceeded if there is no room for a single trial.
    """
    earlier = find_study(session, owner, idempotency)
    if earlier is not None:
        return earlier, []
    quotas.require_room_for_job(session, owner, defaults)
    needed = upload_ids(spec.request.job)
    uploads.hold_for_job(session, owner, needed)
    kind = kind_of(spec)
    study = Study(
        id=new_id("study"),
        owner=owner,
        name=spec.request.name,
        tags=spec.request.tags,
        kind=spec.request.kind.value,
        state=StudyState.RUNNING,
        study_version=STUDY_VERSION,
        request=request,
        spec=spec.model_dump(mode="json"),
        round=1,
        reads_curves=kind.reads_curves,
        planned=kind.planned,
        finished_jobs=0,
        version=1,
    )
    session.add(study)
    session.flush()
    session.add_all(StudyUpload(study_id=study.id, upload_id=upload_id) for upload_id in needed)
    session.flush()
    remember(session, owner, idempotency, study_id=study.id)
    outbox.study_changed(session, study)
    queues = advance_locked(session, study, defaults)
    session.refresh(study)
    return study, queues


def get(session: Session, owner: str, study_id: str, *, lock: bool = False) -> Study:
    """`lock` keeps the row as it is until this transaction ends. Raises NotFound, for another owner's study too."""
    return find_owned(session, Study, owner, study_id, lock=lock)


def list_page(
    session: Session,
    owner: str,
    *,
    state: str | None = None,
    tag: str | None = None,
    name: str | None = None,
    after: PageCursor | None = None,
    limit: int = 50,
) -> list[Study]:
    """The owner's studies, newest first."""
    query = select(Study)
    page = labelled_page(query, Study, owner, state=state, tag=tag, name=name, after=after, limit=limit)
    return list(session.scalars(page))


def request_cancel(session: Session, owner: str, study_id: str) -> Study:
    """Ask for a study to be cancelled: it makes no new trials and cancels the live ones. It finishes with them.

    Asking again changes nothing. Raises NotFound, and Conflict `study-finished` if it succeeded or failed.
    """
    study = find_owned(session, Study, owner, study_id, lock=True)
    if study.state == StudyState.CANCELLED:
        return study
    if study.state != StudyState.RUNNING:
        raise Conflict("study-finished", f"study {study_id} has already {study.state} and can't be cancelled")
    if study.cancel_requested_at is None:
        study.cancel_requested_at = clock(session)
        study.version += 1
        cancel_live_trials(session, study_id)
        session.flush()
        notify(session, study_id)
    advance_locked(session, study)
    return study


def resume(session: Session, owner: str, study_id: str, defaults: Quotas = quotas.NO_QUOTAS) -> tuple[Study, list[str]]:
    """Continue a finished study: trials that failed or were cancelled are created again, the others stay.

    `defaults`: the quotas of owners without their own. Trials that don't fit into the owner's quota are made later.
    Also returns a queue for each new job. Raises NotFound, also for an upload that was deleted meanwhile; Conflict
    `study-not-finished` while the study runs, `study-finished` if no trial failed or was cancelled, and
    `study-outdated` if this version of LIT can't read the study.
    """
    study = find_owned(session, Study, owner, study_id, lock=True)
    if study.state == StudyState.RUNNING:
        raise Conflict("study-not-finished", f"study {study_id} is still running: resume it after it has finished")
    progress = read_progress(session, [study]).get(study_id)
    if study.state == StudyState.SUCCEEDED and (progress is None or not progress.failed + progress.cancelled):
        raise Conflict("study-finished", f"study {study_id} has no failed or cancelled trial to run again")
    try:
        spec, _ = read_study(study)
    except Unreadable as wrong:
        raise Conflict("study-outdated", f"study {study_id} can't be resumed: {wrong}; create it again") from wrong
    uploads.hold_for_job(session, owner, upload_ids(spec.request.job))
    study.state = StudyState.RUNNING.value
    study.round += 1
    study.version += 1
    study.cancel_requested_at = study.finished_at = study.result = study.error = None
    session.flush()
    outbox.study_changed(session, study)
    notify(session, study_id)
    queues = advance_locked(session, study, defaults)
    return study, queues


def delete(session: Session, owner: str, study_id: str) -> list[str]:
    """Remove a study with its jobs; returns the prefixes of their files in storage, which the caller removes.

    Raises NotFound, and Conflict `study-not-finished` while it runs.
    """
    study = find_owned(session, Study, owner, study_id, delete=True)
    if study.state == StudyState.RUNNING:
        raise Conflict(
            "study-not-finished", f"study {study_id} is still running: cancel it first, or wait until it has finished"
        )
    removed = session.scalars(sql_delete(Job).where(Job.study_id == study_id).returning(Job.id)).all()
    session.execute(sql_delete(Study).where(Study.id == study_id))
    runs.forget_complete(session, removed)
    return [layout.job_prefix(job_id) for job_id in removed]
