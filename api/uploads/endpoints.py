"""/v1/uploads: files are sent in pieces, each at the offset where the last one ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.http.auth import Owner
from api.http.bodies import JsonRoute, content_type
from api.http.context import Context, InContext, InSession
from api.http.long_polls import Wait
from api.http.pages import InPages
from api.http.problems import Problem, invalid_field
from api.uploads.limits import check_size
from api.uploads.schemas import show_upload
from api.uploads.writing import RECORD_BYTES, UploadWriter, pieces
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

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=JsonRoute)


@router.post(
    "", status_code=201, responses={200: {"description": "The service already has this file.", "model": Upload}}
)
async def create_upload(
    announced: Annotated[UploadRequest, Body()],
    response: Response,
    owner: Owner,
    context: InContext,
) -> Upload:
    """Announce a file; then send its bytes with PATCH. A file that the service already has need not be sent."""
    check_size(announced.size, context, "size")
    upload = await run_in_threadpool(_create, context, owner, announced)
    if upload.state == UploadState.COMPLETE:
        response.status_code = 200
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    return show_upload(upload)


@router.get("")
def list_uploads(owner: Owner, session: InSession, page: InPages) -> Page[Upload]:
    """List your uploads, newest first."""
    return page.make_page(uploads.list_page(session, owner, after=page.after(), limit=page.limit + 1), show_upload)


@router.get("/{upload_id}")
async def get_upload(upload_id: str, owner: Owner, context: InContext, wait: Wait = 0) -> Upload:
    """One upload; `wait` holds the answer until a teacher's inspection is finished."""

    def read() -> Upload:
        with context.database.session() as session:
            return show_upload(uploads.get(session, owner, upload_id))

    return await context.long_polls.until(upload_id, wait, read, lambda upload: not upload.inspecting)


@router.head("/{upload_id}", response_class=Response, responses={200: {"headers": _OFFSETS}})
def get_offset(upload_id: str, owner: Owner, session: InSession) -> Response:
    """How many bytes the service has, in the headers."""
    upload = uploads.get(session, owner, upload_id)
    return Response(headers={**_offset(upload.received), LENGTH: str(upload.size)})


@router.delete("/{upload_id}", status_code=204)
def delete_upload(upload_id: str, owner: Owner, context: InContext) -> None:
    """Delete an upload; 409 while a job or study that is not finished needs it."""
    with context.database.session() as session:
        prefix = uploads.delete(session, owner, upload_id)
    context.storage.delete_prefix(prefix)


@router.patch(
    "/{upload_id}",
    status_code=204,
    responses={204: {"headers": {OFFSET: _OFFSETS[OFFSET]}}},
    # FastAPI would read a declared body into memory; these bytes are a stream, which has no schema.
    openapi_extra={"requestBody": {"required": True, "content": {BINARY: {}}}},
)
async def append_to_upload(
    upload_id: str,
    request: Request,
    owner: Owner,
    context: InContext,
    upload_offset: Annotated[int, Header(ge=0, description="Where these bytes begin: the upload's `received`.")],
) -> Response:
    """Send the next bytes, as many as you like. After a broken connection, ask for `received` and continue there."""
    if content_type(request) != BINARY:
        raise Problem(415, "unsupported-media-type", f"the route takes bytes: send them with the Content-Type {BINARY}")
    try:
        writer = await run_in_threadpool(UploadWriter, context, owner, upload_id, upload_offset)
        received = await _receive(request, writer)
        if received == writer.upload.size:
            await run_in_threadpool(writer.complete)
    except Stale:
        raise _wrong_offset(await run_in_threadpool(_get, context, owner, upload_id)) from None
    return Response(status_code=204, headers=_offset(received))


@router.put("/{upload_id}/architecture", status_code=202)
def set_architecture(
    upload_id: str,
    architecture: Annotated[LibraryRequest, Body()],
    owner: Owner,
    context: InContext,
) -> Upload:
    """Say which network of torchvision or timm a teacher is. It is inspected again, as that network."""
    return _inspect_as(context, owner, upload_id, architecture)


@router.delete("/{upload_id}/architecture", status_code=202)
def unset_architecture(upload_id: str, owner: Owner, context: InContext) -> Upload:
    """Remove what was said about a teacher's network. It is inspected again, by its tensors alone."""
    return _inspect_as(context, owner, upload_id, None)


def _inspect_as(context: Context, owner: str, upload_id: str, architecture: LibraryRequest | None) -> Upload:
    with context.database.session() as session:
        if uploads.get(session, owner, upload_id).kind != UploadKind.TEACHER:
            raise invalid_field("upload_id", f"{upload_id} is a data set, not a teacher: give a teacher's id")
        uploads.inspect_as(session, owner, upload_id, architecture)
        return show_upload(uploads.get(session, owner, upload_id))


async def _receive(request: Request, writer: UploadWriter) -> int:
    """Write the body to storage; the new offset. The ledger learns the offset even when the connection breaks."""
    offset = recorded = writer.upload.received
    size = writer.upload.size
    try:
        async for piece in pieces(request.stream()):
            if offset + len(piece) > size:
                raise Problem(
                    413,
                    "too-large",
                    f"more than the {size} announced bytes: send only these",
                )
            await run_in_threadpool(writer.append, offset, piece)
            offset += len(piece)
            if offset - recorded >= RECORD_BYTES:
                await run_in_threadpool(writer.record, offset)
                recorded = offset
    finally:
        if offset > recorded:
            await run_in_threadpool(writer.record, offset)
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


def _get(context: Context, owner: str, upload_id: str) -> UploadRow:
    with context.database.session() as session:
        return uploads.get(session, owner, upload_id)


def _wrong_offset(upload: UploadRow) -> Problem:
    detail = (
        "the upload is complete"
        if upload.state == UploadState.COMPLETE
        else f"the service has {upload.received} bytes: continue there"
    )
    return Problem(409, "upload-offset-mismatch", detail, headers=_offset(upload.received))


def _offset(received: int) -> dict[str, str]:
    return {OFFSET: str(received), "Cache-Control": "no-store"}
