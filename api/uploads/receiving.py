"""The bytes of uploads on their way into storage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from typing import BinaryIO

from api.http.context import Context
from api.http.problems import Problem
from jobs.database.models import Upload
from jobs.ledger import uploads
from jobs.storage import layout
from jobs.storage.storage import Storage, StorageKeyMissing
from lit_spec.states import UploadKind

PIECE_BYTES = 1 << 20
RECORD_BYTES = 16 << 20
"""How much may have to be sent again after this process has died."""
HEADER_BYTES = 100 << 20
"""The longest header that the safetensors format allows."""
PARSED_BYTES = 4 << 20
"""JSON can take 25 times its size once it is parsed: the sandboxed inspection reads headers that are longer."""
PICKLES = (b"PK\x03\x04", b"\x80")
"""How files of torch.save begin: a zip archive, or a pickle in the old format."""


class Turn:
    """One request's right to write to an upload, until a newer request begins, in whatever process that is.

    Every write happens under the lock of the upload's row: an older request can't cut off what a newer one wrote, and
    nothing is written for an upload that was deleted. All methods block; they raise Stale and NotFound.
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
        """Tell the ledger how many bytes lie in storage, once they do so durably."""
        with self._database.session() as session:
            uploads.record_progress(session, self.upload.id, self.upload.writer, received)
            self._storage.sync(self._key)

    def complete(self) -> None:
        """Check the bytes that lie in storage and mark the upload complete.

        Raises Problem 422 `checksum-mismatch` or `bad-upload`; the upload then begins anew.
        """
        try:
            self._storage.sync(self._key)
            with self._storage.open(self._key) as file:
                sha256 = sha256_of(file)
            problem = self._problem(sha256)
        except StorageKeyMissing:
            detail = f"{self.upload.filename}: the bytes are no longer in storage: send the file again"
            problem = Problem(422, "bad-upload", detail)
        with self._database.session() as session:
            if problem is None:
                uploads.complete(session, self.upload.id, self.upload.writer, sha256)
            else:
                uploads.record_progress(session, self.upload.id, self.upload.writer, 0)
        if problem is not None:
            raise problem

    def _problem(self, sha256: str) -> Problem | None:
        announced = self.upload.sha256
        if announced is not None and sha256 != announced:
            detail = f"the bytes have the sha256 {sha256}, but {announced} was announced: send the file again"
            return Problem(422, "checksum-mismatch", detail)
        wrong = what_is_wrong(self._storage, self.upload, self._key)
        return None if wrong is None else Problem(422, "bad-upload", f"{self.upload.filename}: {wrong}")


async def pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream's bytes in larger pieces, so that each is worth a trip to storage.

    When the stream breaks, what came before is still given out, and then the error.
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
    """Hexadecimal sha256 of what is left in a file."""
    found = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        found.update(piece)
    return found.hexdigest()


def what_is_wrong(storage: Storage, upload: Upload, key: str) -> str | None:
    """A sentence when the file is plainly no teacher; its content is for the inspection to judge."""
    if upload.kind != UploadKind.TEACHER:
        return None
    with storage.open(key) as file:
        start = file.read(8)
        if start.startswith(PICKLES):
            return None
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(upload.size - 8, HEADER_BYTES):
            return "it is neither a safetensors file nor one of torch.save (.pt)"
        if length > PARSED_BYTES:
            return None
        header = file.read(length)
    return _what_is_wrong_with(header, upload.size - 8 - length)


def _what_is_wrong_with(header: bytes, size: int) -> str | None:
    """The same of a safetensors header, `size` being that of the tensors after it."""
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        return "its safetensors header is no JSON object: the file is damaged"
    ends = [entry.get("data_offsets", [0, 0])[-1] for name, entry in entries.items() if _is_tensor(name, entry)]
    if max(ends, default=0) != size:
        return "its safetensors header tells of more or fewer bytes than there are: the file is cut off or damaged"
    return None


def _is_tensor(name: str, entry: object) -> bool:
    if name == "__metadata__" or not isinstance(entry, dict):
        return False
    offsets = entry.get("data_offsets")
    return isinstance(offsets, list) and len(offsets) == 2 and all(isinstance(offset, int) for offset in offsets)
