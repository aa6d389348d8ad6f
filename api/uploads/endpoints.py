"""/v1/uploads: files are sent in pieces, each at the offset where the last one ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Body, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from api.http.auth import Owner
from api.http.bodies import JsonRoute, content_length, content_type
from api.http.conditional import (
    NOT_MODIFIED,
    IfMatch,
    InConditionalGet,
    require_unchanged,
)
from api.http.context import Context, InContext, InReads, in_transaction, with_storage
from api.http.numbers import WholeNumber
from api.http.pages import InPages
from api.http.problems import Problem, invalid_field
from api.uploads.direct import require_direct, signed_parts
from api.uploads.limits import check_size
from api.uploads.schemas import show_upload
from api.uploads.stored_bytes import OFFSET, announce, offset_headers, read_upload
from api.uploads.writing import UploadWriter, Written, pieces
from jobs.database.models import Upload as UploadRow
from jobs.errors import Stale
from jobs.ledger import audit, uploads
from jobs.ledger.retention import uploads_expire_at
from jobs.storage import removals
from lit_spec import LibraryRequest
from lit_spec.answers.pages import Page
from lit_spec.answers.uploads import Upload
from lit_spec.requests.upload import UploadRequest, WeightsRequest
from lit_spec.states import UploadKind, UploadState

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
    if announced.direct:
        require_direct(context)
    given = {name: value for name, value in announced if name != "direct"}
    upload, _ = await with_storage(context, announce, context, owner, **given)
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    shown = await run_in_threadpool(_show_read, context, upload)
    if upload.state == UploadState.COMPLETE:
        response.status_code = 200
    elif announced.direct:
        shown.parts = await with_storage(context, signed_parts, context, owner, upload.id)
    return shown


@router.get("")
def list_uploads(owner: Owner, session: InReads, context: InContext, page: InPages) -> Page[Upload]:
    """List your uploads, newest first."""
    rows = uploads.list_page(session, owner, after=page.after(), limit=page.limit + 1)
    expire_at = uploads_expire_at(session, rows, context.settings.upload_retention_days)
    return page.make_page(rows, lambda row: show_upload(row, expire_at.get(row.id)))


@router.get("/{upload_id}", response_model=Upload, responses=NOT_MODIFIED)
@router.head("/{upload_id}", response_class=Response, responses={200: {"headers": _OFFSETS}, **NOT_MODIFIED})
async def get_upload(upload_id: str, owner: Owner, context: InContext, get: InConditionalGet) -> Response:
    """One upload, with its offset in the headers too. `wait` holds the answer until a teacher's inspection is finished
    or, with If-None-Match, until the upload has changed.
    """
    return await get.answer(
        upload_id,
        lambda: _show_read(context, read_upload(context, owner, upload_id)),
        lambda upload: not upload.inspecting,
        lambda upload: {**offset_headers(upload.received), LENGTH: str(upload.size)},
    )


@router.delete("/{upload_id}", status_code=204)
async def delete_upload(upload_id: str, owner: Owner, context: InContext, if_match: IfMatch = None) -> None:
    """Delete an upload; 409 while a job or study that is not finished needs it."""

    def delete(session: Session) -> str:
        require_unchanged(if_match, lambda: _look(context, session, owner, upload_id))
        prefix = uploads.delete(session, owner, upload_id)
        # Until then a client may still send parts to URLs that were signed.
        removals.record(session, prefix, max(removals.SETTLING_SECONDS, context.settings.presigned_seconds))
        audit.record(session, "upload.delete", upload_id)
        return prefix

    prefix = await in_transaction(context, delete)
    await with_storage(context, removals.remove_now, context.storage, [prefix])


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
    upload_offset: Annotated[
        WholeNumber, Header(ge=0, description="Where these bytes begin: the upload's `received`.")
    ],
    if_match: IfMatch = None,
) -> Response:
    """Send the next bytes, as many as you like. After a broken connection, ask for `received` and continue there."""
    length = content_length(request) or 0

    def check(upload: UploadRow) -> None:
        require_unchanged(if_match, lambda: show_upload(upload))
        if upload_offset + length > upload.size:
            raise _too_long(upload)

    if content_type(request) != BINARY:
        raise Problem(415, "unsupported-media-type", f"the route takes bytes: send them with the Content-Type {BINARY}")
    try:
        writer = await with_storage(context, UploadWriter, context, owner, upload_id, upload_offset, check)
        received = await _receive(context, request, writer)
        if received == writer.upload.size:
            await with_storage(context, writer.complete)
    except Stale:
        raise _wrong_offset(await with_storage(context, read_upload, context, owner, upload_id)) from None
    return Response(status_code=204, headers=offset_headers(received))


@router.put("/{upload_id}/architecture", status_code=202)
def set_architecture(
    upload_id: str,
    architecture: Annotated[LibraryRequest, Body()],
    owner: Owner,
    context: InContext,
    if_match: IfMatch = None,
) -> Upload:
    """Say which network of torchvision or timm a teacher is. It is inspected again, as that network."""
    return _inspect_again(
        context, owner, upload_id, if_match, lambda session: uploads.inspect_as(session, owner, upload_id, architecture)
    )


@router.delete("/{upload_id}/architecture", status_code=202)
def unset_architecture(upload_id: str, owner: Owner, context: InContext, if_match: IfMatch = None) -> Upload:
    """Remove what was said about a teacher's network. It is inspected again, by its tensors alone."""
    return _inspect_again(
        context, owner, upload_id, if_match, lambda session: uploads.inspect_as(session, owner, upload_id, None)
    )


@router.put("/{upload_id}/weights", status_code=202)
def set_weights(
    upload_id: str,
    asked: Annotated[WeightsRequest, Body()],
    owner: Owner,
    context: InContext,
    if_match: IfMatch = None,
) -> Upload:
    """Say which weights to take of a teacher's checkpoint that has raw and averaged ones. It is inspected again."""
    return _inspect_again(
        context,
        owner,
        upload_id,
        if_match,
        lambda session: uploads.inspect_with(session, owner, upload_id, asked.teacher_weights),
    )


@router.delete("/{upload_id}/weights", status_code=202)
def unset_weights(upload_id: str, owner: Owner, context: InContext, if_match: IfMatch = None) -> Upload:
    """Let a teacher be inspected with its raw weights, or with averaged ones where there are no others."""
    return _inspect_again(
        context, owner, upload_id, if_match, lambda session: uploads.inspect_with(session, owner, upload_id, None)
    )


def _inspect_again(
    context: Context, owner: str, upload_id: str, if_match: str | None, change: Callable[[Session], None]
) -> Upload:
    with context.database.session() as session:
        require_unchanged(if_match, lambda: _look(context, session, owner, upload_id))
        if uploads.get(session, owner, upload_id).kind != UploadKind.TEACHER:
            raise invalid_field("upload_id", f"{upload_id} is a data set, not a teacher: give a teacher's id")
        change(session)
        audit.record(session, "upload.inspect_again", upload_id)
        return _show(context, session, uploads.get(session, owner, upload_id))


async def _receive(context: Context, request: Request, writer: UploadWriter) -> int:
    """Write the body to storage; the new offset. The ledger learns the offset even when the connection breaks.

    A piece is written while the next one arrives.
    """
    start = offset = writer.upload.received
    written = Written(context, writer)
    try:
        async for piece in pieces(request.stream(), writer.piece_bytes):
            if offset + len(piece) > writer.upload.size:
                # Without a Content-Length this is known only now.
                await written.cut(start)
                raise _too_long(writer.upload)
            await written.begin(piece)
            offset += len(piece)
    finally:
        await written.end()
    return offset


def _look(context: Context, session: Session, owner: str, upload_id: str) -> Upload:
    """The upload, which stays as it is until the transaction ends."""
    return _show(context, session, uploads.get(session, owner, upload_id, lock=True))


def _show_read(context: Context, upload: UploadRow) -> Upload:
    """An upload that was read in an earlier transaction."""
    if context.settings.upload_retention_days is None:
        return show_upload(upload)
    with context.database.session() as session:
        return _show(context, session, upload)


def _show(context: Context, session: Session, upload: UploadRow) -> Upload:
    expire_at = uploads_expire_at(session, [upload], context.settings.upload_retention_days)
    return show_upload(upload, expire_at.get(upload.id))


def _too_long(upload: UploadRow) -> Problem:
    detail = (
        f"there are more bytes than the {upload.size} that were announced, and none of this request is kept: send only "
        "what follows the offset"
    )
    return Problem(413, "too-large", detail)


def _wrong_offset(upload: UploadRow) -> Problem:
    detail = (
        "the upload is complete"
        if upload.state == UploadState.COMPLETE
        else f"the service has {upload.received} bytes: continue there"
    )
    return Problem(409, "upload-offset-mismatch", detail, headers=offset_headers(upload.received))
