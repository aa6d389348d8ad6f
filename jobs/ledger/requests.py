"""From a request for a job to its row: find its uploads, read their inspections, resolve the request, create the job.

Every function raises RequestRefused, with the request's own fields, when the request can't be carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy.orm import Session

from jobs.database.models import Job, Upload
from jobs.errors import NotFound, RequestRefused
from jobs.ledger import creation, uploads
from jobs.ledger.creation import Action, NewJob
from jobs.ledger.idempotency import IdempotentRequest
from jobs.ledger.quotas import NO_QUOTAS
from lit_spec import DatasetInspection, Inspection, JobError, JobRequest, JobSpec, SpecError, resolve
from lit_spec.answers.owners import Quotas
from lit_spec.mistakes import Mistake, mistakes
from lit_spec.states import InspectionState, UploadKind, UploadState

ModelT = TypeVar("ModelT", bound=BaseModel)
Found = Inspection | DatasetInspection


@dataclass(frozen=True)
class NamedUpload:
    """An upload that a request names, and the kind that it must have."""

    id: str
    kind: UploadKind


@dataclass(frozen=True)
class Inspections:
    """What was found in the uploads that a request names."""

    teacher: Inspection
    discriminator: Inspection | None = None
    dataset: DatasetInspection | None = None
    """None: the data set is not an upload."""
    test: DatasetInspection | None = None
    """Of `dataset.test_upload`."""

    @classmethod
    def of(cls, found: Mapping[str, Found]) -> Inspections:
        """`found`: by the fields of `named_uploads`."""
        networks = {field: one for field, one in found.items() if isinstance(one, Inspection)}
        datasets = {field: one for field, one in found.items() if isinstance(one, DatasetInspection)}
        return cls(**networks, dataset=datasets.get("dataset.upload"), test=datasets.get("dataset.test_upload"))


def parse(model: type[ModelT], body: object) -> ModelT:
    """The body as a model. The refusal names every wrong field."""
    try:
        return model.model_validate(body)
    except ValidationError as wrong:
        raise RequestRefused.invalid(mistakes(model, body, wrong)) from wrong


def named_uploads(request: JobRequest) -> dict[str, NamedUpload]:
    """The uploads that a request names, by field, in the order in which they are checked."""
    named = {
        "dataset.upload": (request.dataset.upload, UploadKind.DATASET),
        "dataset.test_upload": (request.dataset.test_upload, UploadKind.DATASET),
        "teacher": (request.teacher, UploadKind.TEACHER),
        "discriminator": (request.discriminator, UploadKind.TEACHER),
    }
    return {field: NamedUpload(id, kind) for field, (id, kind) in named.items() if id is not None}


def upload_ids(request: JobRequest) -> list[str]:
    """The ids of all uploads that a request names, each once."""
    return list(dict.fromkeys(upload.id for upload in named_uploads(request).values()))


def find_uploads(session: Session, owner: str, request: JobRequest) -> dict[str, Upload]:
    """The complete uploads that a request names, by field."""
    return {field: _usable(session, owner, field, named) for field, named in named_uploads(request).items()}


def _usable(session: Session, owner: str, field: str, named: NamedUpload) -> Upload:
    try:
        upload = uploads.get(session, owner, named.id)
    except NotFound:
        raise _unknown_upload(field, named) from None
    if upload.kind != named.kind:
        message = f"{named.id} is a {upload.kind}: give the id of a {named.kind} upload"
        raise RequestRefused.invalid_field(field, message)
    if upload.state != UploadState.COMPLETE:
        detail = f"{field}: {named.id} has only {upload.received} of its {upload.size} bytes: finish the upload first"
        raise RequestRefused("upload-unfinished", detail, [Mistake(field, "is not finished")])
    return upload


def _unknown_upload(field: str, named: NamedUpload) -> RequestRefused:
    message = f"there is no upload {named.id!r}: give the id of a {named.kind} upload"
    return RequestRefused.invalid_field(field, message)


def request_inspection(session: Session, owner: str, request: JobRequest) -> None:
    """Have the teacher inspected as the architecture and with the weights that the request names, and the data set,
    unless they were.
    """
    named = find_uploads(session, owner, request)
    if request.architecture is not None:
        uploads.inspect_as(session, owner, request.teacher, request.architecture)
    if request.teacher_weights is not None:
        uploads.inspect_with(session, owner, request.teacher, request.teacher_weights)
    for upload in named.values():
        if upload.kind == UploadKind.DATASET and upload.inspection_state is None:
            uploads.inspect_at_first(session, owner, upload.id)


def find_inspection(session: Session, owner: str, request: JobRequest, field: str) -> Found | None:
    """What was found in the upload that `field` of the request names; None while its inspection has not finished."""
    upload = find_uploads(session, owner, request)[field]
    if upload.inspection_state not in {InspectionState.DONE, InspectionState.FAILED}:
        return None
    if field == "teacher":
        _check_unchanged(upload, request)
    if upload.inspection_error is not None:
        error = JobError.model_validate(upload.inspection_error)
        if upload.kind == UploadKind.DATASET:
            raise RequestRefused("bad-dataset", error.detail, [Mistake(field, error.detail)])
        wrong = error.field if error.field and field == "teacher" else field
        raise RequestRefused("bad-teacher", error.detail, [Mistake(wrong, error.detail)])
    return found_in(upload)


def found_in(upload: Upload) -> Found:
    """What a successful inspection has found."""
    model = DatasetInspection if upload.kind == UploadKind.DATASET else Inspection
    return model.model_validate(upload.inspection)


def _check_unchanged(upload: Upload, request: JobRequest) -> None:
    """Whether the upload is still inspected as the request asked."""
    field = asks_otherwise(request, upload)
    if field is not None:
        detail = f"another request changed the {field} of {upload.id} while this one waited: send this request again"
        raise RequestRefused("inspected-otherwise", detail, [Mistake(field, "was changed by another request")])


def asks_otherwise(request: JobRequest, teacher: Upload) -> str | None:
    """The first field by which the request wants its teacher inspected otherwise than it is; None: there is none."""
    architecture, weights = request.architecture, request.teacher_weights
    if architecture is not None and teacher.architecture != architecture.model_dump(mode="json"):
        return "architecture"
    return "teacher_weights" if weights is not None and teacher.teacher_weights != weights else None


def specify(request: JobRequest, inspections: Inspections) -> JobSpec:
    """The job's specification, in which every value is explicit."""
    try:
        return resolve(request, inspections.teacher, inspections.discriminator, inspections.dataset, inspections.test)
    except SpecError as wrong:
        raise RequestRefused.invalid_field(wrong.field, wrong.message) from wrong


def create_job(
    session: Session,
    owner: str,
    request: JobRequest,
    inspections: Inspections,
    idempotency: IdempotentRequest | None,
    defaults: Quotas = NO_QUOTAS,
    action: Action | None = None,
) -> Job:
    """Add the job, or return the one that the same idempotent request made earlier.

    `defaults`: the quotas of owners without their own. `action`: for the audit log. Raises Conflict and QuotaExceeded
    as well.
    """
    needed = dict.fromkeys(upload_ids(request))
    new = NewJob(owner, request, specify(request, inspections), needed, idempotency, action)
    try:
        return creation.create(session, new, defaults)
    except NotFound as deleted:
        raise refuse_deleted_upload(request, deleted.id) from deleted


def refuse_deleted_upload(request: JobRequest, upload_id: str) -> RequestRefused:
    """What to raise when an upload was deleted between `find_inspection` and the transaction that needs it."""
    field, named = next((field, named) for field, named in named_uploads(request).items() if named.id == upload_id)
    return _unknown_upload(field, named)
