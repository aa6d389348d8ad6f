"""From a request for a job to a row in the ledger."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, cast

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session
from starlette.datastructures import FormData, UploadFile

from api.http.bodies import JSON_BYTES, content_length, content_type, parse_json, read_json, validate
from api.http.context import Context
from api.http.problems import FieldError, Problem, invalid_field
from api.uploads.endpoints import check_size
from api.uploads.receiving import Turn, sha256_of
from jobs.broker.queues import INSPECT_QUEUE, queues_for
from jobs.database.models import Job, Upload
from jobs.errors import NotFound
from jobs.ledger import jobs as ledger
from jobs.ledger import uploads
from lit_spec import Inspection, JobError, JobRequest, LibraryRequest, SpecError, resolve
from lit_spec.states import InspectionState, UploadKind, UploadState

MULTIPART = "multipart/form-data"
INSPECTION_SECONDS = 30.0
"""How long a request for a job waits for its teacher's inspection."""
PIECE_BYTES = 8 << 20
FORM_FILES = {
    "teacher": UploadKind.TEACHER,
    "discriminator": UploadKind.TEACHER,
    "dataset": UploadKind.DATASET,
}
LONGEST_KEY = 255


async def read_job_request(request: Request, owner: str, context: Context) -> dict[str, Any]:
    """The body as JSON; of a form, its files are uploads by then, named in the JSON. Raises Problem."""
    if content_type(request) != MULTIPART:
        return await read_json(request)
    async with _form(request, context) as form:
        return await _read_form(form, owner, context)


@asynccontextmanager
async def _form(request: Request, context: Context) -> AsyncIterator[FormData]:
    """The parsed form; its files lie in temporary files, so their size must be known beforehand."""
    length = content_length(request)
    if length is None:
        raise Problem(411, "length-required", "send a form with its Content-Length, or the files through /v1/uploads")
    most = len(FORM_FILES) * context.settings.max_upload_bytes + 2 * JSON_BYTES
    if length > most:
        raise Problem(413, "too-large", f"the form has {length} bytes; this service takes up to {most}")
    async with request.form(max_files=len(FORM_FILES) + 1, max_fields=4, max_part_size=JSON_BYTES) as form:
        yield form


async def _read_form(form: FormData, owner: str, context: Context) -> dict[str, Any]:
    unknown = sorted(set(form) - {"job", *FORM_FILES})
    if unknown:
        parts = "job (JSON), teacher, discriminator and dataset (files)"
        raise invalid_field(unknown[0], f"unknown part: a form has the parts {parts}")
    files = {name: value for name, value in form.multi_items() if name in FORM_FILES}
    if len(form.multi_items()) != len(set(form)):
        raise Problem(400, "bad-request", "the form has a part twice")
    for name, file in files.items():
        if not isinstance(file, UploadFile):
            raise invalid_field(name, "must be a file (with curl: -F name=@file); ids go into the part job")
        if not file.size:
            raise invalid_field(name, "is an empty file")
        check_size(file.size, context, name)
    job = form.get("job")
    if job is None:
        raise invalid_field("job", "is missing: the part with the request as JSON")
    body = parse_json(await job.read(JSON_BYTES) if isinstance(job, UploadFile) else job.encode())
    # Every mistake is told before anything is kept.
    request = validate(JobRequest, _with_uploads(body, dict.fromkeys(files, "upl_")))
    named = {"teacher": request.architecture}
    ids = {
        name: await run_in_threadpool(
            _keep, file.file, file.filename or name, FORM_FILES[name], named.get(name), owner, context
        )
        for name, file in cast("dict[str, UploadFile]", files).items()
    }
    return _with_uploads(body, ids)


def _with_uploads(body: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The request with the ids of the form's files in their places."""
    result = dict(body)
    for name in ("teacher", "discriminator"):
        if name in ids:
            if name in body:
                raise invalid_field(name, "comes as a file and as an id: give one of them")
            result[name] = ids[name]
    if "dataset" in ids:
        dataset = body.get("dataset", {})
        if not isinstance(dataset, dict) or {"upload", "builtin"} & set(dataset):
            raise invalid_field("dataset", "comes as a file: the job's dataset may only say how to read it")
        result["dataset"] = {**dataset, "upload": ids["dataset"]}
    return result


def _keep(
    file: BinaryIO,
    filename: str,
    kind: UploadKind,
    architecture: LibraryRequest | None,
    owner: str,
    context: Context,
) -> str:
    """Make an upload of a form's file, or find the one with its content; its id."""
    sha256 = sha256_of(file)
    size = file.tell()
    with context.database.session() as session:
        name = filename.replace("\0", "")[:255]
        upload = uploads.create(session, owner, kind, name, size, sha256, architecture)
    if upload.state == UploadState.COMPLETE:
        return upload.id
    turn = Turn(context, owner, upload.id, 0)
    file.seek(0)
    offset = 0
    while piece := file.read(PIECE_BYTES):
        turn.append(offset, piece)
        offset += len(piece)
    try:
        turn.complete()
    except Problem:
        # Nobody knows its id, so nobody could send it again.
        with context.database.session() as session:
            uploads.delete(session, owner, upload.id)
        context.storage.delete_prefix(uploads.prefix(upload.id))
        raise
    if kind == UploadKind.TEACHER:
        context.wakeups(INSPECT_QUEUE)
    return upload.id


def idempotency(key: str | None, body: dict[str, Any]) -> tuple[str, str] | None:
    """The caller's key with a hash of the request, to tell a repetition from another use. Raises Problem 422."""
    if key is None:
        return None
    if not key or len(key) > LONGEST_KEY:
        raise invalid_field("Idempotency-Key", f"must have 1 to {LONGEST_KEY} characters")
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return key, hashlib.sha256(canonical.encode()).hexdigest()


async def make_job(
    context: Context, owner: str, body: dict[str, Any], repeated: tuple[str, str] | None
) -> tuple[Job, list[str]]:
    """The new job, or that of the same request before; with it the queues to send wakeups to. Raises Problem."""
    request = validate(JobRequest, body)
    earlier = await run_in_threadpool(_find_repeated, context, owner, repeated)
    if earlier is not None:
        return earlier, []
    inspections = await inspections_of(context, owner, request)
    job = await run_in_threadpool(_create, context, owner, request, inspections, repeated)
    return job, queues_for(job.device)


def _find_repeated(context: Context, owner: str, repeated: tuple[str, str] | None) -> Job | None:
    if repeated is None:
        return None
    with context.database.session() as session:
        return ledger.find_repeated(session, owner, *repeated)


async def inspections_of(context: Context, owner: str, request: JobRequest) -> dict[str, Inspection]:
    """What was found in the teacher and, if there is one, in the discriminator. Raises Problem."""
    end = time.monotonic() + INSPECTION_SECONDS
    if request.architecture is not None:
        await run_in_threadpool(_inspect_as, context, owner, request, request.architecture)
    named = {"teacher": request.teacher, "discriminator": request.discriminator}
    return {
        field: await _inspected(context, owner, request, field, upload_id, end)
        for field, upload_id in named.items()
        if upload_id is not None
    }


def _inspect_as(context: Context, owner: str, request: JobRequest, architecture: LibraryRequest) -> None:
    with context.database.session() as session:
        _check_uploads(session, owner, request)
        waits = uploads.inspect_as(session, owner, request.teacher, architecture)
    if waits:
        context.wakeups(INSPECT_QUEUE)


async def _inspected(
    context: Context, owner: str, request: JobRequest, field: str, upload_id: str, end: float
) -> Inspection:
    """Once the upload has been inspected, what was found. Raises Problem when it isn't, or is no network."""

    def look() -> Upload:
        with context.database.session() as session:
            return _check_uploads(session, owner, request)[field]

    def inspected(upload: Upload) -> bool:
        return upload.inspection_state in {InspectionState.DONE, InspectionState.FAILED}

    upload = await context.polls.until(upload_id, end - time.monotonic(), look, inspected)
    if not inspected(upload):
        detail = f"the {field} has not been inspected yet: see that a worker runs (`litc worker`), and try again"
        raise Problem(503, "inspection-pending", detail, headers={"Retry-After": "5"})
    if field == "teacher" and _is_inspected_otherwise(upload, request.architecture):
        detail = f"{upload_id} is being inspected as another architecture by another request: send this one again"
        raise Problem(
            409, "inspected-otherwise", detail, errors=[FieldError("architecture", "was said otherwise since")]
        )
    if upload.inspection_error is not None:
        error = JobError.model_validate(upload.inspection_error)
        where = error.field if error.field and field == "teacher" else field
        raise Problem(422, "bad-teacher", error.detail, errors=[FieldError(where, error.detail)])
    return Inspection.model_validate(upload.inspection)


def _is_inspected_otherwise(upload: Upload, wanted: LibraryRequest | None) -> bool:
    return wanted is not None and upload.architecture != wanted.model_dump(mode="json")


def _check_uploads(session: Session, owner: str, request: JobRequest) -> dict[str, Upload]:
    """The uploads by their fields. Raises Problem when one of them can't be used."""
    return {
        field: _usable(session, owner, upload_id, kind, field)
        for field, (upload_id, kind) in _named_uploads(request).items()
    }


def _named_uploads(request: JobRequest) -> dict[str, tuple[str, UploadKind]]:
    """Ids and kinds by the fields that name them."""
    named = {
        "dataset.upload": (request.dataset.upload, UploadKind.DATASET),
        "teacher": (request.teacher, UploadKind.TEACHER),
        "discriminator": (request.discriminator, UploadKind.TEACHER),
    }
    return {field: (upload_id, kind) for field, (upload_id, kind) in named.items() if upload_id is not None}


def _usable(session: Session, owner: str, upload_id: str, kind: UploadKind, field: str) -> Upload:
    try:
        upload = uploads.get(session, owner, upload_id)
    except NotFound:
        raise _unknown_upload(field, upload_id, kind) from None
    if upload.kind != kind:
        raise invalid_field(field, f"{upload_id} is a {upload.kind}: give the id of a {kind} upload")
    if upload.state != UploadState.COMPLETE:
        detail = f"{field}: {upload.received} of {upload.size} bytes of {upload_id} are here: finish the upload first"
        raise Problem(409, "upload-unfinished", detail, errors=[FieldError(field, "is not finished")])
    return upload


def _unknown_upload(field: str, upload_id: str, kind: UploadKind) -> Problem:
    return invalid_field(field, f"there is no upload {upload_id!r}: give the id of a {kind} upload")


def _create(
    context: Context,
    owner: str,
    request: JobRequest,
    inspections: dict[str, Inspection],
    repeated: tuple[str, str] | None,
) -> Job:
    try:
        spec = resolve(request, inspections["teacher"], inspections.get("discriminator"))
    except SpecError as wrong:
        raise invalid_field(wrong.field, wrong.message) from wrong
    named = _named_uploads(request)
    ids = [upload_id for upload_id, _ in named.values()]
    try:
        with context.database.session() as session:
            return ledger.create(session, owner, request, spec, upload_ids=ids, idempotency=repeated)
    except NotFound as gone:
        # Deleted since it was looked at.
        field, kind = next((field, kind) for field, (upload_id, kind) in named.items() if upload_id == gone.id)
        raise _unknown_upload(field, gone.id, kind) from gone
