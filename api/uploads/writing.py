"""Writing the bytes of uploads to storage, and checking them once they are complete."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import BinaryIO

from api.http.context import Context
from api.http.problems import Problem
from api.uploads.teacher_files import find_fault
from jobs.ledger import uploads
from jobs.storage import layout
from jobs.storage.storage import StorageKeyMissing
from lit_spec.states import UploadKind

PIECE_BYTES = 1 << 20
RECORD_BYTES = 16 << 20
"""The number of received bytes is recorded at these intervals. After a crash at most this much must be sent again."""


class UploadWriter:
    """One request's right to write to an upload. It ends when a newer request begins, in this process or in another.

    Every write happens under the lock of the upload's row, so an older request can't overwrite the bytes of a newer
    one, and nothing is written for an upload that was deleted. All methods block; they raise Stale and NotFound.
    """

    def __init__(self, context: Context, owner: str, upload_id: str, offset: int) -> None:
        with context.database.session() as session:
            self.upload = uploads.open_writer(session, owner, upload_id, offset)
        self._database = context.database
        self._storage = context.storage
        self._key = layout.upload_data(upload_id)

    def append(self, offset: int, piece: bytes) -> None:
        """Write the next piece to storage."""
        with self._database.session() as session:
            uploads.hold(session, self.upload.id, self.upload.writer)
            self._storage.append(self._key, offset, piece)

    def record(self, received: int) -> None:
        """Make the bytes in storage durable, and record their number in the ledger."""
        with self._database.session() as session:
            uploads.record_progress(session, self.upload.id, self.upload.writer, received)
            self._storage.sync(self._key)

    def complete(self) -> None:
        """Check the bytes in storage and mark the upload complete.

        Raises Problem 422 `checksum-mismatch` or `bad-upload`; the upload then starts again at offset 0.
        """
        try:
            self._storage.sync(self._key)
            with self._storage.open(self._key) as file:
                sha256 = sha256_of(file)
                problem = self._find_problem(file, sha256)
        except StorageKeyMissing:
            detail = f"{self.upload.filename} is no longer in storage: send the file again"
            problem = Problem(422, "bad-upload", detail)
        with self._database.session() as session:
            if problem is None:
                uploads.complete(session, self.upload.id, self.upload.writer, sha256)
            else:
                uploads.record_progress(session, self.upload.id, self.upload.writer, 0)
        if problem is not None:
            raise problem

    def _find_problem(self, file: BinaryIO, sha256: str) -> Problem | None:
        announced = self.upload.sha256
        if announced is not None and sha256 != announced:
            detail = f"the bytes have the sha256 {sha256}, but {announced} was announced: send the file again"
            return Problem(422, "checksum-mismatch", detail)
        if self.upload.kind != UploadKind.TEACHER:
            return None
        file.seek(0)
        fault = find_fault(file, self.upload.size)
        return None if fault is None else Problem(422, "bad-upload", f"{self.upload.filename}: {fault}")


async def pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream's bytes in larger pieces, so that each is worth a trip to storage.

    When the stream breaks, the bytes before the break are yielded first; then the error is raised.
    """
    gathered = bytearray()
    broken: Exception | None = None
    try:
        async for chunk in stream:
            gathered += chunk
            if len(gathered) >= PIECE_BYTES:
                yield bytes(gathered)
                gathered.clear()
    except Exception as error:  # noqa: BLE001 - raised again below
        broken = error
    if gathered:
        yield bytes(gathered)
    if broken is not None:
        raise broken


def sha256_of(file: BinaryIO) -> str:
    """Hexadecimal sha256 of the rest of a file, from its current position."""
    found = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        found.update(piece)
    return found.hexdigest()
