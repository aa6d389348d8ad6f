"""/v1/uploads: files come in by pieces, at the offset where the last one ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.http.auth import Owner
from api.http.bodies import content_type, read_json, validate
from api.http.context import Context, InContext, InSession
from api.http.long_polls import Wait
from api.http.pages import Cursor, Limit, make_page, read_cursor
from api.http.problems import Problem, invalid_field
from api.uploads.receiving import RECORD_BYTES, Turn, pieces
from api.uploads.schemas import show_upload
from jobs.database.models import Upload as UploadRow
from jobs.errors import Stale
from jobs.ledger import uploads
from lit_spec import LibraryRequest
from lit_spec.answers.pages import Page
from lit_spec.answers.uploads import Upload
from lit_spec.requests.upload import UploadRequest
from lit_spec.states import UploadKind, UploadState

OFFSET = "Upload-Offset"
LENGTH = "Upload-Length"
BINARY = "application/octet-stream"

_OFFSETS = {name: {"schema": {"type": "integer"}} for name in (OFFSET, LENGTH)}
_ARCHITECTURE = {"$ref": "#/components/schemas/LibraryRequest"}
_ANNOUNCEMENT = {"$ref": "#/components/schemas/UploadRequest"}

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


@router.post(
    "",
    status_code=201,
    responses={200: {"description": "The file is here already.", "model": Upload}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _ANNOUNCEMENT}}}},
)
async def create_upload(request: Request, response: Response, owner: Owner, context: InContext) -> Upload:
    """Announce a file, then PATCH its bytes. A file that is here already, by its sha256, needs no sending."""
    announced = validate(UploadRequest, await read_json(request))
    check_size(announced.size, context, "size")
    upload = await run_in_threadpool(_create, context, owner, announced)
    if upload.state == UploadState.COMPLETE:
        response.status_code = 200
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    return show_upload(upload)


@router.get("")
def list_uploads(owner: Owner, session: InSession, limit: Limit = 50, cursor: Cursor = None) -> Page[Upload]:
    """The uploads, newest first."""
    rows = uploads.list_page(session, owner, after=read_cursor(cursor), limit=limit + 1)
    return make_page(rows, limit, show_upload)


@router.get("/{upload_id}")
async def get_upload(upload_id: str, owner: Owner, context: InContext, wait: Wait = 0) -> Upload:
    """One upload; `wait` holds the answer until a teacher's inspection has ended."""

    def look() -> Upload:
        with context.database.session() as session:
            return show_upload(uploads.get(session, owner, upload_id))

    return await context.polls.until(upload_id, wait, look, _inspected)


@router.head("/{upload_id}", response_class=Response, responses={200: {"headers": _OFFSETS}})
def get_offset(upload_id: str, owner: Owner, session: InSession) -> Response:
    """How many bytes are here, in the headers."""
    upload = uploads.get(session, owner, upload_id)
    return Response(headers={**_offset(upload.received), LENGTH: str(upload.size)})


@router.delete("/{upload_id}", status_code=204)
def delete_upload(upload_id: str, owner: Owner, context: InContext) -> None:
    """Remove an upload; 409 while a job that waits or runs needs it."""
    with context.database.session() as session:
        prefix = uploads.delete(session, owner, upload_id)
    context.storage.delete_prefix(prefix)


@router.patch(
    "/{upload_id}",
    status_code=204,
    responses={204: {"headers": {OFFSET: _OFFSETS[OFFSET]}}},
    openapi_extra={"requestBody": {"required": True, "content": {BINARY: {}}}},
)
async def append_to_upload(
    upload_id: str,
    request: Request,
    owner: Owner,
    context: InContext,
    upload_offset: Annotated[int, Header(ge=0, description="Where these bytes begin: the upload's `received`.")],
) -> Response:
    """Send the next bytes, as many as you like. A broken connection loses little: ask for `received` and go on."""
    if content_type(request) != BINARY:
        raise Problem(415, "unsupported-media-type", f"send the bytes as {BINARY}")
    try:
        turn = await run_in_threadpool(Turn, context, owner, upload_id, upload_offset)
        received = await _receive(request, turn)
        if received == turn.upload.size:
            await run_in_threadpool(turn.complete)
    except Stale:
        raise _elsewhere(await run_in_threadpool(_get, context, owner, upload_id)) from None
    return Response(status_code=204, headers=_offset(received))


@router.put(
    "/{upload_id}/architecture",
    status_code=202,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _ARCHITECTURE}}}},
)
async def set_architecture(upload_id: str, request: Request, owner: Owner, context: InContext) -> Upload:
    """Say which network of torchvision or timm a teacher is. It is inspected anew, as that network."""
    architecture = validate(LibraryRequest, await read_json(request))
    return await run_in_threadpool(_inspect_as, context, owner, upload_id, architecture)


@router.delete("/{upload_id}/architecture", status_code=202)
def unset_architecture(upload_id: str, owner: Owner, context: InContext) -> Upload:
    """Take back what was said of a teacher. It is inspected anew, by its tensors alone."""
    return _inspect_as(context, owner, upload_id, None)


def _inspect_as(context: Context, owner: str, upload_id: str, architecture: LibraryRequest | None) -> Upload:
    with context.database.session() as session:
        if uploads.get(session, owner, upload_id).kind != UploadKind.TEACHER:
            raise invalid_field("upload_id", f"{upload_id} is a data set, which has no architecture: name a teacher")
        uploads.inspect_as(session, owner, upload_id, architecture)
        return show_upload(uploads.get(session, owner, upload_id))


async def _receive(request: Request, turn: Turn) -> int:
    """Write the body to storage and tell the ledger how far it came, however it ends; the new offset."""
    offset = recorded = turn.upload.received
    size = turn.upload.size
    try:
        async for piece in pieces(request.stream()):
            if offset + len(piece) > size:
                raise Problem(413, "too-large", f"the upload was announced with {size} bytes; this is more")
            await run_in_threadpool(turn.append, offset, piece)
            offset += len(piece)
            if offset - recorded >= RECORD_BYTES:
                await run_in_threadpool(turn.record, offset)
                recorded = offset
    finally:
        if offset > recorded:
            await run_in_threadpool(turn.record, offset)
    return offset


def _create(context: Context, owner: str, announced: UploadRequest) -> UploadRow:
    with context.database.session() as session:
        upload = uploads.create(
            session,
            owner,
            announced.kind,
            announced.filename,
            announced.size,
            announced.sha256,
            announced.architecture,
        )
        session.refresh(upload)
        return upload


def check_size(size: int, context: Context, field: str) -> None:
    """Raises Problem 413 for a file that this service doesn't take."""
    most = context.settings.max_upload_bytes
    if size > most:
        raise Problem(413, "too-large", f"{field}: {size} bytes, but this service takes files of up to {most} bytes")


def _get(context: Context, owner: str, upload_id: str) -> UploadRow:
    with context.database.session() as session:
        return uploads.get(session, owner, upload_id)


def _inspected(upload: Upload) -> bool:
    return upload.inspection_state not in {"pending", "running"}


def _elsewhere(upload: UploadRow) -> Problem:
    detail = (
        "the upload is complete"
        if upload.state == UploadState.COMPLETE
        else f"{upload.received} bytes are here: go on from there"
    )
    return Problem(409, "upload-offset-mismatch", detail, headers=_offset(upload.received))


def _offset(received: int) -> dict[str, str]:
    return {OFFSET: str(received), "Cache-Control": "no-store"}
