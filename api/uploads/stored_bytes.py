"""Whether storage still has the bytes of an upload. If not, the upload begins again at offset 0."""

from __future__ import annotations

import structlog

from api.http.context import Context
from api.http.problems import Problem
from jobs.database.models import Upload
from jobs.ledger import uploads
from jobs.storage import layout
from jobs.storage.marker import marker_key, storage_fault
from jobs.storage.storage import Storage, StorageKeyMissing
from lit_spec import LibraryRequest
from lit_spec.states import InspectionState, UploadKind

OFFSET = "Upload-Offset"

log = structlog.get_logger()


def announce(
    context: Context,
    owner: str,
    kind: UploadKind,
    filename: str,
    size: int,
    sha256: str | None,
    architecture: LibraryRequest | None,
) -> Upload:
    """A new upload, or the owner's complete one with the same content. Raises like `read_upload`."""
    with context.database.session() as session:
        upload = uploads.create(session, owner, kind, filename, size, sha256, architecture)
        session.refresh(upload)
    return restart_lost(context, owner, upload.id) if is_lost(context.storage, upload) else upload


def read_upload(context: Context, owner: str, upload_id: str) -> Upload:
    """The upload. If its bytes are lost, it has begun again. Raises NotFound, and Problem 503 without storage."""
    with context.database.session() as session:
        upload = uploads.get(session, owner, upload_id)
    return restart_lost(context, owner, upload_id) if is_lost(context.storage, upload) else upload


def is_lost(storage: Storage, upload: Upload) -> bool:
    """Whether storage has fewer bytes of the upload than the ledger says."""
    if upload.received == 0:
        return False
    # Of an inspected teacher, jobs need only what the inspection has stored.
    inspected = upload.inspection_state == InspectionState.DONE
    if inspected and storage.exists(layout.inspected_teacher(upload.id)):
        return False
    try:
        return storage.size(layout.upload_data(upload.id)) < upload.received
    except StorageKeyMissing:
        return True


def restart_lost(context: Context, owner: str, upload_id: str) -> Upload:
    """Let an upload whose bytes are lost begin again, and return it. Raises like `read_upload`."""
    with context.database.session() as session:
        # Bytes are written under the same lock.
        upload = uploads.get(session, owner, upload_id, lock=True)
        if is_lost(context.storage, upload):
            fault = storage_fault(context.storage, marker_key(session))
            if fault is not None:
                log.error("storage is not the ledger's", fault=fault)
                detail = "the storage of this service can't be reached: try again"
                raise Problem(503, "unavailable", detail, headers={"Retry-After": "5"})
            uploads.restart(session, upload)
        return upload


def bytes_lost(upload: Upload) -> Problem:
    """The answer to a request whose bytes can't follow the earlier ones, because those are lost."""
    return Problem(
        409,
        "upload-bytes-lost",
        f"the bytes of {upload.filename} are no longer in storage: send the file again from offset {upload.received}",
        headers=offset_headers(upload.received),
    )


def offset_headers(received: int) -> dict[str, str]:
    return {OFFSET: str(received), "Cache-Control": "no-store"}
