"""Uploads a file in pieces, so that after a broken connection at most one piece is sent again."""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from lit_client.addresses import path_to
from lit_client.answers import parse
from lit_client.errors import ProblemError, TransferError
from lit_client.files import ProgressCallback, file_sha256, ignore_progress
from lit_client.models import Page, Upload, UploadKind
from lit_client.synchronous.connection import Connection
from lit_client.synchronous.direct_uploads import send_directly
from lit_spec import TeacherWeights

CHUNK_BYTES = 8 * 1024 * 1024
# The service may read a large file once more before it answers the last piece.
COMPLETION_SECONDS = 600.0
OFFSET = "Upload-Offset"


def send_file(
    connection: Connection,
    path: Path,
    kind: UploadKind,
    progress: ProgressCallback | None = None,
    architecture: Mapping[str, Any] | None = None,
    teacher_weights: TeacherWeights | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> Upload:
    """Upload a file; continues where an earlier try stopped. A file that the service already has is not sent again.

    Raises TransferError when the connection keeps breaking, ProblemError when the service refuses.
    """
    size = path.stat().st_size
    sha256 = file_sha256(path)
    upload = _find_unfinished(connection, path.name, kind, size, sha256)
    if upload is None:
        upload = _create(connection, path.name, kind, size, sha256, architecture, teacher_weights)
    else:
        if architecture is not None:
            name_architecture(connection, upload.id, architecture)
        if upload.teacher_weights != teacher_weights:
            name_weights(connection, upload.id, teacher_weights)
    report = progress or ignore_progress
    if upload.complete:
        report(size, size)
        return upload
    if not send_directly(connection, path, upload, report):
        _send_pieces(connection, path, upload, chunk_bytes, report)
    return _ask(connection, upload)


def name_architecture(connection: Connection, upload_id: str, architecture: Mapping[str, Any] | None) -> Upload:
    method, body = ("DELETE", None) if architecture is None else ("PUT", dict(architecture))
    path = path_to("uploads", upload_id, "architecture")
    return parse(Upload, connection.request(method, path, json=body, repeatable=True))


def name_weights(connection: Connection, upload_id: str, weights: TeacherWeights | None) -> Upload:
    method, body = ("DELETE", None) if weights is None else ("PUT", {"teacher_weights": weights.value})
    return parse(
        Upload, connection.request(method, path_to("uploads", upload_id, "weights"), json=body, repeatable=True)
    )


def _create(
    connection: Connection,
    filename: str,
    kind: UploadKind,
    size: int,
    sha256: str,
    architecture: Mapping[str, Any] | None,
    teacher_weights: TeacherWeights | None,
) -> Upload:
    body: dict[str, Any] = {"kind": kind.value, "filename": filename, "size": size, "sha256": sha256}
    if architecture is not None:
        body["architecture"] = dict(architecture)
    if teacher_weights is not None:
        body["teacher_weights"] = teacher_weights.value
    # Repeating the request leaves at most an empty upload, which the service removes later.
    return parse(Upload, connection.request("POST", "/v1/uploads", repeatable=True, json=body))


def _find_unfinished(connection: Connection, filename: str, kind: UploadKind, size: int, sha256: str) -> Upload | None:
    """An upload of the same file that an earlier run began, if it is among the newest 100."""
    page = parse(Page[Upload], connection.request("GET", "/v1/uploads", repeatable=True, params={"limit": 100}))
    same = (filename, kind, size, sha256)
    for upload in page.items:
        if not upload.complete and (upload.filename, upload.kind, upload.size, upload.sha256) == same:
            return upload
    return None


def _send_pieces(
    connection: Connection, path: Path, upload: Upload, chunk_bytes: int, report: ProgressCallback
) -> None:
    """Send the file from the service's offset to the end. Each byte that arrives sets the number of failures to 0."""
    offset = furthest = upload.received
    failures = 0
    report(offset, upload.size)
    while True:
        try:
            offset = _send_piece(connection, path, upload, offset, chunk_bytes)
            done = offset >= upload.size
        except _Interrupted as error:
            failures += 1
            if failures > connection.retries:
                raise TransferError(
                    f"Sending {path} stopped at {furthest} of {upload.size} bytes: {error} "
                    "Send it again to continue from there."
                ) from error
            time.sleep(connection.pause(failures))
            offset = _ask_offset(connection, upload)
            # The answer to the last piece may have been lost.
            done = offset >= upload.size and (_ask(connection, upload)).complete
        report(offset, upload.size)
        if done:
            return
        if offset > furthest:
            furthest, failures = offset, 0


class _Interrupted(Exception):
    """A piece was not sent completely, for a temporary reason. The service knows how much of it has arrived."""


def _send_piece(connection: Connection, path: Path, upload: Upload, offset: int, chunk_bytes: int) -> int:
    """Send one piece and return the new offset. Raises _Interrupted when the piece may be tried again."""
    with path.open("rb") as file:
        file.seek(offset)
        piece = file.read(chunk_bytes)
    if not piece and offset < upload.size:
        raise TransferError(f"{path} became shorter while it was being sent. Send it again.")
    headers = {OFFSET: str(offset), "Content-Type": "application/octet-stream"}
    try:
        response = connection.request_once(
            "PATCH", path_to("uploads", upload.id), wait=COMPLETION_SECONDS, content=piece, headers=headers
        )
    except httpx.TransportError as error:
        raise _Interrupted(str(connection.unreachable(error))) from error
    if response.is_success:
        return int(response.headers.get(OFFSET, offset + len(piece)))
    problem = ProblemError.from_response(response)
    other_offset = problem.status == httpx.codes.CONFLICT and OFFSET in response.headers
    if other_offset or problem.temporary:
        raise _Interrupted(str(problem)) from problem
    raise problem


def _ask(connection: Connection, upload: Upload) -> Upload:
    return parse(Upload, connection.request("GET", path_to("uploads", upload.id), repeatable=True))


def _ask_offset(connection: Connection, upload: Upload) -> int:
    response = connection.request("HEAD", path_to("uploads", upload.id), repeatable=True)
    return int(response.headers[OFFSET])
