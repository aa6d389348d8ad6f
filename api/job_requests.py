"""From a request for a job to a row in the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, cast

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session
from starlette.datastructures import FormData, UploadFile

from api.bodies import JSON_BYTES, content_length, content_type, parse_json, read_json, validate
from api.context import Context
from api.problems import FieldError, Problem, invalid_field
from api.receiving import Turn, sha256_of
from api.uploads import check_size
from jobs import ledger, uploads
from jobs.errors import NotFound
from jobs.models import InspectionState, Job, Upload, UploadKind, UploadState
from jobs.queues import INSPECT_QUEUE, queues_for
from lit_core.spec import Inspection, JobError, JobRequest, SpecError, resolve

MULTIPART = "multipart/form-data"
INSPECTION_SECONDS = 30.0
"""How long a request for a job waits for its teacher's inspection."""
PIECE_BYTES = 8 << 20
FORM_FILES = {"teacher": UploadKind.TEACHER, "dataset": UploadKind.DATASET}
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
        raise invalid_field(unknown[0], "unknown part: a form has the parts job (JSON), teacher and dataset (files)")
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
    validate(JobRequest, _with_uploads(body, dict.fromkeys(files, "upl_")))
    ids = {
        name: await run_in_threadpool(_keep, file.file, file.filename or name, FORM_FILES[name], owner, context)
        for name, file in cast("dict[str, UploadFile]", files).items()
    }
    return _with_uploads(body, ids)


def _with_uploads(body: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The request with the ids of the form's files in their places."""
    result = dict(body)
    if "teacher" in ids:
        if "teacher" in body:
            raise invalid_field("teacher", "comes as a file and as an id: give one of them")
        result["teacher"] = ids["teacher"]
    if "dataset" in ids:
        dataset = body.get("dataset", {})
        if not isinstance(dataset, dict) or {"upload", "builtin"} & set(dataset):
            raise invalid_field("dataset", "comes as a file: the job's dataset may only say how to read it")
        result["dataset"] = {**dataset, "upload": ids["dataset"]}
    return result


def _keep(file: BinaryIO, filename: str, kind: UploadKind, owner: str, context: Context) -> str:
    """Make an upload of a form's file, or find the one with its content; its id."""
    sha256 = sha256_of(file)
    size = file.tell()
    with context.database.session() as session:
        upload = uploads.create(session, owner, kind, filename.replace("\0", "")[:255], size, sha256)
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
        context.hints(INSPECT_QUEUE)
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
    """The new job, or that of the same request before; with it the queues to send hints to. Raises Problem."""
    request = validate(JobRequest, body)
    earlier = await run_in_threadpool(_find_repeated, context, owner, repeated)
    if earlier is not None:
        return earlier, []
    teacher = await _inspected_teacher(context, owner, request)
    job = await run_in_threadpool(_create, context, owner, request, teacher, repeated)
    return job, queues_for(job.device)


def _find_repeated(context: Context, owner: str, repeated: tuple[str, str] | None) -> Job | None:
    if repeated is None:
        return None
    with context.database.session() as session:
        return ledger.find_repeated(session, owner, *repeated)


async def _inspected_teacher(context: Context, owner: str, request: JobRequest) -> Upload:
    """The teacher's upload once it has been inspected. Raises Problem when it isn't, or is none."""

    def look() -> Upload:
        with context.database.session() as session:
            return _check_uploads(session, owner, request)

    def inspected(upload: Upload) -> bool:
        return upload.inspection_state in {InspectionState.DONE, InspectionState.FAILED}

    teacher = await context.polls.until(request.teacher, INSPECTION_SECONDS, look, inspected)
    if not inspected(teacher):
        detail = "the teacher has not been inspected yet: see that a worker runs (`litc worker`), and try again"
        raise Problem(503, "inspection-pending", detail, headers={"Retry-After": "5"})
    if teacher.inspection_error is not None:
        error = JobError.model_validate(teacher.inspection_error)
        raise Problem(422, "bad-teacher", error.detail, errors=[FieldError("teacher", error.detail)])
    return teacher


def _check_uploads(session: Session, owner: str, request: JobRequest) -> Upload:
    """The teacher's upload. Raises Problem when one of the uploads can't be used."""
    if request.dataset.upload is not None:
        _usable(session, owner, request.dataset.upload, UploadKind.DATASET, "dataset.upload")
    return _usable(session, owner, request.teacher, UploadKind.TEACHER, "teacher")


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
    context: Context, owner: str, request: JobRequest, teacher: Upload, repeated: tuple[str, str] | None
) -> Job:
    try:
        spec = resolve(request, Inspection.model_validate(teacher.inspection))
    except SpecError as wrong:
        raise invalid_field(wrong.field, wrong.message) from wrong
    fields = {request.teacher: "teacher"}
    if request.dataset.upload is not None:
        fields[request.dataset.upload] = "dataset.upload"
    try:
        with context.database.session() as session:
            return ledger.create(session, owner, request, spec, upload_ids=list(fields), idempotency=repeated)
    except NotFound as gone:
        # Deleted since it was looked at.
        kind = UploadKind.TEACHER if gone.id == request.teacher else UploadKind.DATASET
        raise _unknown_upload(fields[gone.id], gone.id, kind) from gone
