"""Whether storage still has the files of an upload. If not, it begins again, or is inspected again."""

from __future__ import annotations

import structlog

from api.http.context import Context
from api.http.problems import Problem, unavailable
from jobs.database.models import Upload
from jobs.ledger import audit, uploads
from jobs.storage import layout
from jobs.storage.marker import marker_key, storage_fault
from jobs.storage.storage import Storage, StorageKeyMissing
from lit_spec import LibraryRequest, TeacherWeights
from lit_spec.states import InspectionState, UploadKind, UploadState

OFFSET = "Upload-Offset"

log = structlog.get_logger()


def announce(
    context: Context,
    owner: str,
    kind: UploadKind,
    filename: str,
    size: int,
    sha256: str | None,
    architecture: LibraryRequest | None = None,
    teacher_weights: TeacherWeights | None = None,
) -> tuple[Upload, bool]:
    """A new upload, or the owner's complete one with the same content; and whether it is new.

    Raises QuotaExceeded, and like `read_upload`.
    """
    with context.database.session() as session:
        upload = uploads.create(
            session, owner, kind, filename, size, sha256, architecture, teacher_weights, context.settings.quotas
        )
        session.refresh(upload)
        new = upload.state != UploadState.COMPLETE
        if new:
            audit.record(session, "upload.create", upload.id)
    return recover(context, upload), new


def read_upload(context: Context, owner: str, upload_id: str) -> Upload:
    """The upload, recovered. Raises NotFound, and Problem 503 without storage."""
    with context.database.reading() as session:
        upload = uploads.get(session, owner, upload_id)
    return recover(context, upload)


def recover(context: Context, upload: Upload) -> Upload:
    """Let an upload whose bytes are lost begin again, and return it. Raises like `read_upload`.

    A teacher of which only the inspection's file is lost is inspected again.
    """
    if is_stored(context.storage, upload):
        return upload
    with context.database.session() as session:
        # Bytes are written under the same lock.
        found = uploads.get(session, upload.owner, upload.id, lock=True)
        if not is_stored(context.storage, found):
            fault = storage_fault(context.storage, marker_key(session))
            if fault is not None:
                log.error("storage is not the ledger's", fault=fault)
                detail = "the storage of this service can't be reached: try again"
                raise unavailable(detail, seconds=5)
            if _has_bytes(context.storage, found):
                uploads.inspect_again(session, found)
            else:
                uploads.restart(session, found)
        return found


def is_stored(storage: Storage, upload: Upload) -> bool:
    """Whether storage has what the ledger says of the upload."""
    # Of an inspected teacher, jobs need only what the inspection has stored.
    if upload.kind == UploadKind.TEACHER and upload.inspection_state == InspectionState.DONE:
        return _size(storage, layout.inspected_teacher(upload.id, (upload.inspection or {}).get("sha256"))) > 0
    return _has_bytes(storage, upload)


def _has_bytes(storage: Storage, upload: Upload) -> bool:
    key = layout.upload_data(upload.id)
    if upload.state == UploadState.COMPLETE:
        return _size(storage, key) >= upload.received
    return upload.received == 0 or storage.pieces_size(key) >= upload.received


def _size(storage: Storage, key: str) -> int:
    try:
        return storage.size(key)
    except StorageKeyMissing:
        return 0


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
