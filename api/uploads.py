"""/v1/uploads: files come in by pieces, at the offset where the last one ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.auth import Owner
from api.context import Context, InContext, InSession
from api.long_poll import Wait
from api.pages import Cursor, Limit, Page, make_page, read_cursor
from api.problems import Problem, invalid_field
from api.receiving import RECORD_BYTES, TakenOver, Turn, pieces, sha256_of, what_is_wrong
from api.schemas import UploadOut, UploadRequest, show_upload
from jobs import uploads
from jobs.models import Upload, UploadKind, UploadState
from jobs.queues import INSPECT_QUEUE

OFFSET = "Upload-Offset"
BINARY = "application/octet-stream"
NO_LIMIT = 1 << 60
"""For the framework; the upload's announced size is the limit."""

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


@router.post("", status_code=201, responses={200: {"description": "The file is here already.", "model": UploadOut}})
def create_upload(
    body: UploadRequest, response: Response, owner: Owner, session: InSession, context: InContext
) -> UploadOut:
    """Announce a file, then PATCH its bytes. A file that is here already, by its sha256, needs no sending."""
    check_size(body.size, context, "size")
    if "\0" in body.filename:
        raise invalid_field("filename", "has a NUL character")
    upload = uploads.create(session, owner, body.kind, body.filename, body.size, body.sha256)
    if upload.state == UploadState.COMPLETE:
        response.status_code = 200
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    return show_upload(upload)


@router.get("")
def list_uploads(owner: Owner, session: InSession, limit: Limit = 50, cursor: Cursor = None) -> Page[UploadOut]:
    """The uploads, newest first."""
    rows = uploads.list_page(session, owner, after=read_cursor(cursor), limit=limit + 1)
    return make_page(rows, limit, show_upload)


@router.get("/{upload_id}")
async def get_upload(upload_id: str, owner: Owner, context: InContext, wait: Wait = 0) -> UploadOut:
    """One upload; `wait` holds the answer until a teacher's inspection has ended."""

    def look() -> UploadOut:
        with context.database.session() as session:
            return show_upload(uploads.get(session, owner, upload_id))

    return await context.polls.until(upload_id, wait, look, _inspected)


@router.head("/{upload_id}", include_in_schema=False)
def get_offset(upload_id: str, owner: Owner, session: InSession) -> Response:
    upload = uploads.get(session, owner, upload_id)
    return Response(headers={**_offset(upload.received), "Upload-Length": str(upload.size)})


@router.delete("/{upload_id}", status_code=204)
def delete_upload(upload_id: str, owner: Owner, context: InContext) -> None:
    """Remove an upload; 409 while a job that waits or runs needs it."""
    with context.database.session() as session:
        prefix = uploads.delete(session, owner, upload_id)
    context.storage.delete_prefix(prefix)


@router.patch(
    "/{upload_id}",
    status_code=204,
    max_body_size=NO_LIMIT,
    responses={204: {"headers": {OFFSET: {"schema": {"type": "integer"}}}}},
    openapi_extra={"requestBody": {"required": True, "content": {BINARY: {}}}},
)
async def append_to_upload(
    upload_id: str,
    request: Request,
    background: BackgroundTasks,
    owner: Owner,
    context: InContext,
    upload_offset: Annotated[int, Header(ge=0, description="Where these bytes begin: the upload's `received`.")],
) -> Response:
    """Send the next bytes, as many as you like. A broken connection loses little: ask for `received` and go on."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != BINARY:
        raise Problem(415, "unsupported-media-type", f"send the bytes as {BINARY}")
    async with context.receivers.receive(upload_id) as turn:
        async with turn.writing():
            upload = await run_in_threadpool(_get, context, owner, upload_id)
        if upload.state == UploadState.COMPLETE or upload_offset != upload.received:
            raise _elsewhere(upload)
        try:
            received = await _receive(request, context, upload, turn)
        except TakenOver:
            raise _elsewhere(await run_in_threadpool(_get, context, owner, upload_id)) from None
        if received == upload.size:
            async with turn.writing():
                await run_in_threadpool(complete_upload, context, upload)
            if upload.kind == UploadKind.TEACHER:
                background.add_task(context.hints, INSPECT_QUEUE)
    return Response(status_code=204, headers=_offset(received), background=background)


async def _receive(request: Request, context: Context, upload: Upload, turn: Turn) -> int:
    """Write the body to storage and tell the ledger how far it came, however it ends; the new offset."""
    key = file_key(upload.id)
    offset = recorded = upload.received
    try:
        async for piece in pieces(request.stream()):
            if offset + len(piece) > upload.size:
                raise Problem(413, "too-large", f"the upload was announced with {upload.size} bytes; this is more")
            async with turn.writing():
                await run_in_threadpool(context.storage.append, key, offset, piece)
                offset += len(piece)
                if offset - recorded >= RECORD_BYTES:
                    await run_in_threadpool(_record, context, upload.id, offset)
                    recorded = offset
    except ClientDisconnect:
        raise Problem(400, "bad-request", "the connection broke") from None
    finally:
        if offset > recorded:
            async with turn.writing():
                await run_in_threadpool(_record, context, upload.id, offset)
    return offset


def _record(context: Context, upload_id: str, received: int) -> None:
    context.storage.sync(file_key(upload_id))
    with context.database.session() as session:
        uploads.record_progress(session, upload_id, received)


def complete_upload(context: Context, upload: Upload) -> None:
    """Check the bytes that lie in storage and mark the upload complete.

    Raises Problem 422 `checksum-mismatch` or `bad-upload`; the upload then begins anew.
    """
    key = file_key(upload.id)
    context.storage.sync(key)
    with context.storage.open(key) as file:
        sha256 = sha256_of(file)
    problem = None
    if upload.sha256 is not None and sha256 != upload.sha256:
        detail = f"the bytes have the sha256 {sha256}, but {upload.sha256} was announced: send the file again"
        problem = Problem(422, "checksum-mismatch", detail)
    elif (wrong := what_is_wrong(context.storage, upload, key)) is not None:
        problem = Problem(422, "bad-upload", f"{upload.filename}: {wrong}")
    with context.database.session() as session:
        if problem is None:
            uploads.complete(session, upload.id, sha256)
        else:
            uploads.record_progress(session, upload.id, 0)
    if problem is not None:
        raise problem


def check_size(size: int, context: Context, field: str) -> None:
    """Raises Problem 413 for a file that this service doesn't take."""
    most = context.settings.max_upload_bytes
    if size > most:
        raise Problem(413, "too-large", f"{field}: {size} bytes, but this service takes files of up to {most} bytes")


def file_key(upload_id: str) -> str:
    """Where an upload's bytes lie in storage."""
    return f"{uploads.prefix(upload_id)}data"


def _get(context: Context, owner: str, upload_id: str) -> Upload:
    with context.database.session() as session:
        return uploads.get(session, owner, upload_id)


def _inspected(upload: UploadOut) -> bool:
    return upload.inspection_state not in {"pending", "running"}


def _elsewhere(upload: Upload) -> Problem:
    detail = (
        "the upload is complete"
        if upload.state == UploadState.COMPLETE
        else f"{upload.received} bytes are here: go on from there"
    )
    return Problem(409, "upload-offset-mismatch", detail, headers=_offset(upload.received))


def _offset(received: int) -> dict[str, str]:
    return {OFFSET: str(received), "Cache-Control": "no-store"}
