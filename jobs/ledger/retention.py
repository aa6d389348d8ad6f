"""Retention: when the files of finished jobs and unused uploads go, and which jobs are kept.

A finished job keeps its row, its result, events and metrics; only its files go. An upload goes as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobs.database.connection import clock
from jobs.database.models import Job, JobFiles, JobUpload, Study, StudyUpload, Upload
from jobs.database.notifications import notify
from jobs.ledger.owned_rows import find_owned
from jobs.storage import layout, removals
from lit_spec.states import FINISHED_STATES, InspectionState, StudyState, UploadState

ROWS_PER_ROUND = 100
DOWNLOAD_SECONDS = 3600.0
"""This long the files of a job stay in storage after the last download of them could begin."""
_WAITING = (InspectionState.PENDING, InspectionState.RUNNING)


def set_kept(session: Session, owner: str, job_id: str, kept: bool) -> Job:
    """Keep the files of a job for good, or no longer; the job may be unfinished. Raises NotFound.

    Changes nothing once the files are removed: the job's `files_removed_at` says so.
    """
    job = find_owned(session, Job, owner, job_id, lock=True)
    # Waits for a housekeeper that is removing them, and then sees what it wrote.
    row = insert(JobFiles).values(job_id=job_id, finished_at=job.finished_at, kept=kept)
    row = row.on_conflict_do_update(
        index_elements=[JobFiles.job_id], set_={"kept": kept}, where=JobFiles.removed_at.is_(None)
    )
    session.execute(row)
    notify(session, job_id)
    session.refresh(job)
    return job


def expire_jobs(session: Session, days: float, signed_seconds: float = 0.0) -> list[str]:
    """Take the files of jobs that finished so many days ago from their readers; returns the ids of these jobs.

    The trials of running studies wait for the end of their study. `signed_seconds`: how long a URL of a file, signed
    just before, can be used.
    """
    in_running_study = exists().where(Study.id == Job.study_id, Study.state == StudyState.RUNNING)
    query = (
        select(JobFiles)
        .join(Job, Job.id == JobFiles.job_id)
        .where(
            JobFiles.finished_at < func.statement_timestamp() - timedelta(days=days),
            JobFiles.removed_at.is_(None),
            ~JobFiles.kept,
            ~in_running_study,
        )
        .order_by(JobFiles.finished_at)
        .limit(ROWS_PER_ROUND)
        .with_for_update(of=JobFiles, skip_locked=True)
    )
    expired = session.scalars(query).all()
    now = clock(session)
    for files in expired:
        files.removed_at = now
        removals.record(session, layout.job_prefix(files.job_id), max(DOWNLOAD_SECONDS, signed_seconds))
        notify(session, files.job_id)
    return [files.job_id for files in expired]


def expire_uploads(session: Session, days: float) -> list[str]:
    """Remove the uploads that nothing has needed for so many days; returns their ids.

    An upload that was needed later is looked at again when it may have been unused for so long.
    """
    cutoff = func.statement_timestamp() - timedelta(days=days)
    may_be_unused_since = func.coalesce(Upload.unused_since, Upload.completed_at)
    query = (
        select(Upload)
        .where(
            Upload.state == UploadState.COMPLETE,
            may_be_unused_since < cutoff,
            or_(Upload.inspection_state.is_(None), Upload.inspection_state.not_in(_WAITING)),
        )
        .order_by(may_be_unused_since)
        .limit(ROWS_PER_ROUND)
        .with_for_update(skip_locked=True)
    )
    # Once it is locked, no job that needs it can be made.
    locked = session.scalars(query, execution_options={"populate_existing": True}).all()
    now = clock(session)
    unused_since = dict(session.execute(_unused_since(Upload.id.in_([upload.id for upload in locked]))).all())
    expired = [upload for upload in locked if unused_since.get(upload.id, now) < now - timedelta(days=days)]
    for upload in locked:
        upload.unused_since = unused_since.get(upload.id, now)
    for upload in expired:
        session.delete(upload)
        removals.record(session, layout.upload_prefix(upload.id))
        notify(session, upload.id)
    return [upload.id for upload in expired]


def job_expires_at(job: Job, days: float | None) -> datetime | None:
    """When the files of a finished job go. None: never, not known yet, or they are gone."""
    if days is None or job.finished_at is None or job.kept or job.files_removed_at is not None:
        return None
    return job.finished_at + timedelta(days=days)


def uploads_expire_at(session: Session, uploads: Sequence[Upload], days: float | None) -> dict[str, datetime]:
    """When each complete upload goes if it is not used again; those that something unfinished needs are left out."""
    ids = [upload.id for upload in uploads if upload.state == UploadState.COMPLETE]
    if days is None or not ids:
        return {}
    found = session.execute(_unused_since(Upload.id.in_(ids))).all()
    return {upload_id: since + timedelta(days=days) for upload_id, since in found}


def _unused_since(*which: ColumnElement[bool]) -> Select[str, datetime]:
    """(id, since) of the uploads that no unfinished job and no running study needs."""
    job_needs = (
        exists()
        .where(JobUpload.upload_id == Upload.id, Job.id == JobUpload.job_id, Job.state.not_in(FINISHED_STATES))
        .correlate(Upload)
    )
    study_needs = (
        exists()
        .where(StudyUpload.upload_id == Upload.id, Study.id == StudyUpload.study_id, Study.state == StudyState.RUNNING)
        .correlate(Upload)
    )
    last_job = (
        select(func.max(Job.finished_at))
        .where(JobUpload.upload_id == Upload.id, Job.id == JobUpload.job_id)
        .correlate(Upload)
        .scalar_subquery()
    )
    last_study = (
        select(func.max(Study.finished_at))
        .where(StudyUpload.upload_id == Upload.id, Study.id == StudyUpload.study_id)
        .correlate(Upload)
        .scalar_subquery()
    )
    since = func.greatest(Upload.completed_at, Upload.used_at, last_job, last_study)
    return select(Upload.id, since.label("since")).where(*which, ~job_needs, ~study_needs)
