"""Uploads past the service: the client sends parts to the object store, to URLs that the service signs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body

from api.http.auth import Owner
from api.http.bodies import JsonRoute
from api.http.conditional import IfMatch, require_unchanged
from api.http.context import Context, InContext, with_storage
from api.http.problems import Problem
from api.uploads.schemas import show_upload
from api.uploads.stored_bytes import read_upload
from api.uploads.writing import UploadWriter
from jobs.ledger import audit, uploads
from jobs.storage import layout
from jobs.storage.storage import DirectParts
from lit_spec.answers.uploads import Upload, UploadPart, UploadParts
from lit_spec.requests.upload import SentParts
from lit_spec.states import UploadState

NUMBERS_NAMED = 10
SIGNED_PER_HOUR = 20
EXPIRIES = 2
"""So many times more for each time that the URLs expire within an hour."""
SIGNING_SECONDS = 300
"""After so long a caller may ask again."""

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=JsonRoute)


@router.post("/{upload_id}/parts")
async def sign_parts(upload_id: str, owner: Owner, context: InContext) -> UploadParts:
    """Get URLs to which you PUT the parts of a file yourself, past this service. Ask again once they have expired."""
    require_direct(context)
    await with_storage(context, read_upload, context, owner, upload_id)
    return UploadParts(parts=await with_storage(context, signed_parts, context, owner, upload_id))


@router.post("/{upload_id}/complete")
async def complete_upload(
    upload_id: str, sent: Annotated[SentParts, Body()], owner: Owner, context: InContext, if_match: IfMatch = None
) -> Upload:
    """Finish an upload whose parts you have sent yourself. The service reads them to compute the sha256."""
    return await with_storage(context, _complete, context, owner, upload_id, sent, if_match)


def _complete(context: Context, owner: str, upload_id: str, sent: SentParts, if_match: str | None) -> Upload:
    direct = require_direct(context)
    upload = read_upload(context, owner, upload_id)
    require_unchanged(if_match, lambda: show_upload(upload))
    if upload.state != UploadState.COMPLETE:
        writer = UploadWriter(context, owner, upload_id, 0, has_all=True)
        etags = {part.number: part.etag for part in sent.parts}
        missing = direct.missing(layout.upload_data(upload_id), upload.size, etags)
        if missing:
            raise _parts_missing(missing)
        writer.complete()
    return show_upload(read_upload(context, owner, upload_id))


def require_direct(context: Context) -> DirectParts:
    """Raises Problem 409 if this service's storage takes no parts from clients."""
    direct = context.storage.direct
    if direct is None:
        detail = "clients can't send to the storage of this service themselves: send the bytes with PATCH instead"
        raise Problem(409, "direct-upload-unavailable", detail)
    return direct


def signed_parts(context: Context, owner: str, upload_id: str) -> list[UploadPart]:
    """The parts of an upload that has no bytes yet. Requests that write to it already lose the right to do so.

    Raises NotFound, Stale and Problem.
    """
    direct = require_direct(context)
    with context.database.session() as session:
        upload = uploads.open_writer(session, owner, upload_id, 0)
        # Each time the store would take other parts, which nobody counts until they are removed.
        most = SIGNED_PER_HOUR + EXPIRIES * 3600 // context.settings.presigned_seconds
        if audit.count(session, "upload.sign", upload_id, seconds=3600.0) >= most:
            detail = f"the parts of this upload were signed {most} times within an hour: use the URLs that you have"
            raise Problem(429, "parts-signed-too-often", detail, headers={"Retry-After": str(SIGNING_SECONDS)})
        audit.record(session, "upload.sign", upload_id)
    parts = direct.parts(layout.upload_data(upload_id), upload.size, upload.writer)
    return [UploadPart.model_validate(part) for part in parts]


def _parts_missing(numbers: list[int]) -> Problem:
    named = ", ".join(map(str, numbers[:NUMBERS_NAMED])) + (" and more" if len(numbers) > NUMBERS_NAMED else "")
    detail = f"the store does not have the parts {named} with the ETags given: send them, and then complete the upload"
    return Problem(409, "upload-parts-missing", detail)
