"""Uploads: receiving files, and inspecting them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from jobs.database.connection import clock
from jobs.database.models import Job, JobUpload, Study, StudyUpload, Upload
from jobs.database.notifications import notify
from jobs.errors import Conflict, NotFound, Stale
from jobs.ids import new_id
from jobs.ledger import quotas
from jobs.ledger.owned_rows import PageCursor, find_owned, read_page
from jobs.storage import layout, removals
from jobs.webhooks import outbox
from lit_spec import DatasetInspection, ErrorType, Inspection, JobError, LibraryRequest, TeacherWeights
from lit_spec.answers.owners import Quotas
from lit_spec.states import FINISHED_STATES, InspectionState, StudyState, UploadKind, UploadState

ABANDONED_DAYS = 7
JOBS_NAMED = 5
INSPECTION_ATTEMPTS = 3
INSPECTIONS_TOPIC = "inspections"
"""Notified whenever an upload begins to wait for an inspection; the inspecting workers listen."""
_WORKER_LOST = JobError(
    type=ErrorType.WORKER_LOST,
    detail=f"the worker crashed, froze or was cut off in each of {INSPECTION_ATTEMPTS} inspections: upload it again",
)


def create(
    session: Session,
    owner: str,
    kind: str,
    filename: str,
    size: int,
    sha256: str | None,
    architecture: LibraryRequest | None = None,
    teacher_weights: TeacherWeights | None = None,
    defaults: Quotas = quotas.NO_QUOTAS,
) -> Upload:
    """A new upload, or the owner's complete one of the same kind, size and content.

    `architecture` says which library's network a teacher is, `teacher_weights` which weights of its file to take. A
    complete one is inspected again if that was not known, or if it was inspected with other weights. `defaults`: the
    quotas of owners without their own. Raises QuotaExceeded if there is no room for a new one.
    """
    again = architecture is not None or teacher_weights is not None
    same = None if sha256 is None else find_same(session, owner, kind, size, sha256, failed_too=again)
    # Locked, because it may expire at this moment.
    if same is not None and _locked(session, Upload.id == same.id) is not None:
        same.used_at = clock(session)
        if architecture is not None:
            inspect_as(session, owner, same.id, architecture)
        elif same.kind == UploadKind.DATASET:
            inspect_at_first(session, owner, same.id)
        inspect_with(session, owner, same.id, teacher_weights)
        session.flush()
        return same
    quotas.require_room_for_bytes(session, owner, size, defaults)
    upload = Upload(
        id=new_id("upl"),
        owner=owner,
        kind=UploadKind(kind).value,
        filename=filename,
        size=size,
        received=0,
        sha256=sha256,
        state=UploadState.UPLOADING.value,
        architecture=None if architecture is None else architecture.model_dump(mode="json"),
        teacher_weights=teacher_weights,
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def find_same(
    session: Session, owner: str, kind: str, size: int, sha256: str, *, failed_too: bool = False
) -> Upload | None:
    """A complete upload with this content. One whose inspection failed counts only with `failed_too`."""
    usable = or_(Upload.inspection_state.is_(None), Upload.inspection_state != InspectionState.FAILED)
    query = select(Upload).where(
        Upload.owner == owner,
        Upload.kind == kind,
        Upload.size == size,
        Upload.sha256 == sha256,
        Upload.state == UploadState.COMPLETE,
        *(() if failed_too else (usable,)),
    )
    return session.scalars(query.order_by(Upload.created_at).limit(1)).one_or_none()


def get(session: Session, owner: str, upload_id: str, *, lock: bool = False) -> Upload:
    """`lock` keeps the upload as it is until this transaction ends. Raises NotFound, for another owner's upload too."""
    return find_owned(session, Upload, owner, upload_id, lock=lock)


def list_page(session: Session, owner: str, *, after: PageCursor | None = None, limit: int = 50) -> list[Upload]:
    """The owner's uploads, newest first."""
    return read_page(session, Upload, owner, after=after, limit=limit)


def open_writer(session: Session, owner: str, upload_id: str, offset: int) -> Upload:
    """Let the caller write from `offset` on, with the upload's new `writer` token, and no earlier caller.

    Raises NotFound, and Stale if the upload is complete or continues at another offset.
    """
    upload = find_owned(session, Upload, owner, upload_id, lock=True)
    if upload.state == UploadState.COMPLETE or upload.received != offset:
        raise Stale
    upload.writer += 1
    # What a client then sends to the store itself, nobody counts.
    upload.received_at = clock(session)
    return upload


def hold(session: Session, upload_id: str, writer: int) -> Upload:
    """Prevent all other requests from writing until this transaction ends.

    Raises NotFound if the upload was deleted meanwhile, and Stale if `writer` is no longer its token.
    """
    upload = _locked(session, Upload.id == upload_id)
    if upload is None:
        raise NotFound("upload", upload_id)
    if upload.state == UploadState.COMPLETE or upload.writer != writer:
        raise Stale
    return upload


def is_completing(session: Session, upload_id: str) -> bool:
    """Whether another request puts the file together now. If not, none begins until this transaction ends."""
    return not session.scalar(select(func.pg_try_advisory_xact_lock(_completion(upload_id))))


def hold_completion(session: Session, upload_id: str) -> None:
    """Wait until no other request puts the file together; none does until this transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(_completion(upload_id))))


def record_progress(session: Session, upload_id: str, writer: int, received: int) -> None:
    """Record how many bytes are in storage. Raises NotFound and Stale."""
    upload = hold(session, upload_id, writer)
    upload.received = received
    upload.received_at = clock(session)


def restart(session: Session, upload: Upload) -> None:
    """Let an upload whose row is locked begin again at offset 0. No earlier request can write to it any more."""
    upload.state = UploadState.UPLOADING.value
    upload.received = 0
    upload.writer += 1
    upload.received_at = clock(session)
    upload.inspection_failures = 0
    upload.completed_at = upload.inspection_state = upload.inspection = upload.inspection_error = None
    upload.inspection_started_at = None
    notify(session, upload.id)


def complete(session: Session, upload_id: str, writer: int, sha256: str) -> None:
    """All bytes are in storage and have this sha256. The upload now waits for inspection. Raises NotFound and Stale."""
    upload = hold(session, upload_id, writer)
    upload.received = upload.size
    upload.sha256 = sha256
    upload.state = UploadState.COMPLETE.value
    upload.completed_at = clock(session)
    _queue_inspection(session, upload)
    notify(session, upload_id)


def delete(session: Session, owner: str, upload_id: str) -> str:
    """Remove an upload; returns the prefix of its files in storage, which the caller removes.

    Raises NotFound, and Conflict `upload-in-use` while a job that waits or runs, or a running study, needs it.
    """
    upload = find_owned(session, Upload, owner, upload_id, delete=True)
    users = [*_studies_using(session, upload_id), *_jobs_using(session, upload_id)]
    if users:
        named = ", ".join(users[:JOBS_NAMED]) + (f" and {len(users) - JOBS_NAMED} more" * (len(users) > JOBS_NAMED))
        raise Conflict(
            "upload-in-use",
            f"upload {upload_id} is needed by {named}: cancel that first, or wait until it has finished",
        )
    session.delete(upload)
    session.flush()
    return layout.upload_prefix(upload_id)


def hold_for_job(session: Session, owner: str, upload_ids: Sequence[str]) -> None:
    """Keep the uploads from being deleted until this transaction has made them part of a job or study.

    Raises NotFound.
    """
    wanted = set(upload_ids)
    found = session.scalars(
        select(Upload.id)
        .where(Upload.id.in_(wanted), Upload.owner == owner)
        .order_by(Upload.id)
        .with_for_update(read=True, key_share=True)
    ).all()
    for missing in wanted - set(found):
        raise NotFound("upload", missing)


def inspect_as(session: Session, owner: str, upload_id: str, architecture: LibraryRequest | None) -> None:
    """Set which library's network a teacher is. None: the inspection finds out from its tensors.

    A complete teacher is inspected again, unless it was already inspected as this network without an error.
    Raises NotFound.
    """
    upload = find_owned(session, Upload, owner, upload_id, lock=True)
    wanted = None if architecture is None else architecture.model_dump(mode="json")
    if upload.architecture == wanted and upload.inspection_state != InspectionState.FAILED:
        return
    upload.architecture = wanted
    if upload.state == UploadState.COMPLETE:
        inspect_again(session, upload)


def inspect_at_first(session: Session, owner: str, upload_id: str) -> None:
    """Let a complete upload that no version of LIT has inspected wait for an inspection. Raises NotFound."""
    upload = find_owned(session, Upload, owner, upload_id, lock=True)
    if upload.state == UploadState.COMPLETE and upload.inspection_state is None:
        inspect_again(session, upload)


def inspect_with(session: Session, owner: str, upload_id: str, weights: TeacherWeights | None) -> None:
    """Set which weights of a teacher's file to take. None: the raw ones, or the averaged ones if there are no others.

    A complete teacher is inspected again, unless an inspection without an error took these weights, asked for or not.
    Raises NotFound.
    """
    upload = find_owned(session, Upload, owner, upload_id, lock=True)
    if upload.teacher_weights == weights and (weights is None or upload.inspection_state != InspectionState.FAILED):
        return
    upload.teacher_weights = weights
    if upload.state == UploadState.COMPLETE and not _took(upload, weights):
        inspect_again(session, upload)


def _took(upload: Upload, weights: TeacherWeights | None) -> bool:
    """Whether a finished inspection took what an inspection with these weights would take."""
    if upload.inspection_state != InspectionState.DONE or upload.inspection is None:
        return False
    choices = upload.inspection.get("weights_choices", [])
    usual = TeacherWeights.RAW if TeacherWeights.RAW in choices else TeacherWeights.EMA
    return upload.inspection.get("weights") == (usual if weights is None else weights)


def inspect_again(session: Session, upload: Upload) -> None:
    """Let a complete upload whose row is locked wait for another inspection."""
    _queue_inspection(session, upload)
    upload.inspection = upload.inspection_error = None
    upload.inspection_failures = 0
    # It joins the end of the queue, so that nobody delays others by having one upload inspected again and again.
    upload.inspection_started_at = clock(session)
    notify(session, upload.id)


def claim_inspection(session: Session, timeout_seconds: float) -> Upload | None:
    """Claim the upload that has waited longest, or whose inspection was claimed too long ago."""
    too_old = func.statement_timestamp() - timedelta(seconds=timeout_seconds)
    waits = or_(
        Upload.inspection_state == InspectionState.PENDING,
        and_(Upload.inspection_state == InspectionState.RUNNING, Upload.inspection_started_at < too_old),
    )
    query = (
        select(Upload)
        .where(waits)
        .order_by(func.coalesce(Upload.inspection_started_at, Upload.completed_at))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    while (upload := session.scalars(query).one_or_none()) is not None:
        if upload.inspection_state == InspectionState.RUNNING:
            _lose(session, upload, _WORKER_LOST)
        if upload.inspection_state == InspectionState.PENDING:
            upload.inspection_state = InspectionState.RUNNING.value
            upload.inspection_started_at = clock(session)
            session.flush()
            return upload
    return None


def release_inspection(session: Session, claimed: Upload) -> None:
    """Give a claimed inspection back without counting a failure."""
    upload = _claimed(session, claimed)
    if upload is not None:
        _queue_inspection(session, upload)


def lose_inspection(session: Session, claimed: Upload, error: JobError) -> None:
    """Count a failure that the file did not cause. The upload waits again; the third failure is final."""
    upload = _claimed(session, claimed)
    if upload is not None:
        _lose(session, upload, error)


def finish_inspection(
    session: Session,
    upload_id: str,
    *,
    inspection: Inspection | DatasetInspection | None,
    error: JobError | None,
    architecture: dict[str, Any] | None = None,
    teacher_weights: str | None = None,
) -> bool:
    """Write what an inspection found, or why the file can't be used.

    The first result stays. A result is dropped if another `architecture` or other weights were asked for meanwhile.
    Returns False if the upload was deleted meanwhile: the caller then removes what the inspection stored.
    """
    if (inspection is None) == (error is None):
        raise ValueError("give either the inspection or the error")
    upload = _locked(session, Upload.id == upload_id)
    if upload is None:
        return False
    waits = upload.inspection_state in {InspectionState.PENDING, InspectionState.RUNNING}
    if waits and (upload.architecture, upload.teacher_weights) == (architecture, teacher_weights):
        upload.inspection_state = InspectionState.FAILED.value if inspection is None else InspectionState.DONE.value
        upload.inspection = None if inspection is None else inspection.model_dump(mode="json")
        upload.inspection_error = None if error is None else error.model_dump(mode="json")
        outbox.upload_inspected(session, upload)
        notify(session, upload_id)
    return True


def unfinished(session: Session) -> dict[str, int]:
    """The keys in storage of all files that still arrive, with their sizes."""
    query = select(Upload.id, Upload.size).where(Upload.state == UploadState.UPLOADING)
    return {layout.upload_data(upload_id): size for upload_id, size in session.execute(query)}


def delete_abandoned(session: Session) -> None:
    """Remove the uploads that received nothing for a week, and have their files removed."""
    too_old = func.statement_timestamp() - timedelta(days=ABANDONED_DAYS)
    query = select(Upload).where(Upload.state == UploadState.UPLOADING, Upload.received_at < too_old)
    abandoned = session.scalars(query.with_for_update(skip_locked=True)).all()
    for upload in abandoned:
        session.delete(upload)
        removals.record(session, layout.upload_prefix(upload.id))


def _jobs_using(session: Session, upload_id: str) -> list[str]:
    """The unfinished jobs that need an upload."""
    query = select(Job.id).join(JobUpload, JobUpload.job_id == Job.id)
    query = query.where(JobUpload.upload_id == upload_id, Job.state.not_in(FINISHED_STATES))
    return list(session.scalars(query.order_by(Job.created_at)))


def _studies_using(session: Session, upload_id: str) -> list[str]:
    """The running studies that need an upload, perhaps for trials that are not made yet."""
    query = select(Study.id).join(StudyUpload, StudyUpload.study_id == Study.id)
    query = query.where(StudyUpload.upload_id == upload_id, Study.state == StudyState.RUNNING)
    return list(session.scalars(query.order_by(Study.created_at)))


def _completion(upload_id: str) -> ColumnElement[int]:
    return func.hashtextextended(f"completion\n{upload_id}", 0)


def _locked(session: Session, *which: ColumnElement[bool]) -> Upload | None:
    query = select(Upload).where(*which).with_for_update()
    return session.scalars(query, execution_options={"populate_existing": True}).one_or_none()


def _claimed(session: Session, claimed: Upload) -> Upload | None:
    """The upload, locked, if its inspection is still the claimed one, which the time of the claim shows."""
    return _locked(
        session,
        Upload.id == claimed.id,
        Upload.inspection_state == InspectionState.RUNNING,
        Upload.inspection_started_at == claimed.inspection_started_at,
    )


def _lose(session: Session, upload: Upload, error: JobError) -> None:
    upload.inspection_failures += 1
    if upload.inspection_failures < INSPECTION_ATTEMPTS:
        _queue_inspection(session, upload)
    else:
        upload.inspection_state = InspectionState.FAILED.value
        upload.inspection_error = error.model_dump(mode="json")
        outbox.upload_inspected(session, upload)
        notify(session, upload.id)
    session.flush()


def _queue_inspection(session: Session, upload: Upload) -> None:
    """Let an upload whose row is locked wait for an inspection, and wake the inspecting workers."""
    upload.inspection_state = InspectionState.PENDING.value
    notify(session, INSPECTIONS_TOPIC)
