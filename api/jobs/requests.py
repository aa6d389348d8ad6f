"""From a request for a job to a row in the ledger."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, cast

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from api.http.bodies import JSON_BYTES, content_length, content_type, parse_json, read_json, validate
from api.http.context import Context
from api.http.problems import Problem, invalid_field
from api.uploads.endpoints import check_size
from api.uploads.receiving import Turn, sha256_of
from jobs.broker.queues import queues_for
from jobs.database.models import Job
from jobs.ledger import requests, uploads
from jobs.ledger.idempotency import IdempotentRequest, find_job
from jobs.storage import layout
from lit_spec import Inspection, JobRequest, LibraryRequest
from lit_spec.states import UploadKind, UploadState

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
        context.storage.delete_prefix(layout.upload_prefix(upload.id))
        raise
    return upload.id


def idempotency(key: str | None, body: dict[str, Any]) -> IdempotentRequest | None:
    """The caller's key together with the request. Raises Problem 422."""
    if key is None:
        return None
    if not key or len(key) > LONGEST_KEY:
        raise invalid_field("Idempotency-Key", f"must have 1 to {LONGEST_KEY} characters")
    return IdempotentRequest.of(key, body)


async def make_job(
    context: Context, owner: str, body: dict[str, Any], repeated: IdempotentRequest | None
) -> tuple[Job, list[str]]:
    """The new job, or that of the same request before; with it the queues to send wakeups to.

    Raises Problem and RequestRefused.
    """
    request = requests.parse(JobRequest, body)
    earlier = await run_in_threadpool(_find_repeated, context, owner, repeated)
    if earlier is not None:
        return earlier, []
    inspections = await inspections_of(context, owner, request)
    job = await run_in_threadpool(_create, context, owner, request, inspections, repeated)
    return job, queues_for(job.device)


def _find_repeated(context: Context, owner: str, repeated: IdempotentRequest | None) -> Job | None:
    with context.database.session() as session:
        return find_job(session, owner, repeated)


async def inspections_of(context: Context, owner: str, request: JobRequest) -> requests.Inspections:
    """What was found in the networks that the request names. Raises Problem and RequestRefused."""
    end = time.monotonic() + INSPECTION_SECONDS
    await run_in_threadpool(_request_inspection, context, owner, request)
    found = {
        field: await _inspected(context, owner, request, field, upload_id, end)
        for field, upload_id in requests.network_uploads(request).items()
    }
    return requests.Inspections(**found)


def _request_inspection(context: Context, owner: str, request: JobRequest) -> None:
    with context.database.session() as session:
        requests.request_inspection(session, owner, request)


async def _inspected(
    context: Context, owner: str, request: JobRequest, field: str, upload_id: str, end: float
) -> Inspection:
    """What was found in one network, once its inspection has finished."""

    def look() -> Inspection | None:
        with context.database.session() as session:
            return requests.find_inspection(session, owner, request, field)

    found = await context.polls.until(upload_id, end - time.monotonic(), look, lambda found: found is not None)
    if found is None:
        detail = f"the {field} has not been inspected yet: see that a worker runs (`litc worker`), and try again"
        raise Problem(503, "inspection-pending", detail, headers={"Retry-After": "5"})
    return found


def _create(
    context: Context,
    owner: str,
    request: JobRequest,
    inspections: requests.Inspections,
    repeated: IdempotentRequest | None,
) -> Job:
    with context.database.session() as session:
        return requests.create_job(session, owner, request, inspections, repeated)
