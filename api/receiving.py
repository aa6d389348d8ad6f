"""The bytes of uploads on their way into storage."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from jobs.models import Upload, UploadKind
from jobs.storage import Storage

PIECE_BYTES = 1 << 20
RECORD_BYTES = 16 << 20
"""How much may have to be sent again after this process has died."""
HEADER_BYTES = 100 << 20
"""The longest header that the safetensors format allows."""
PICKLES = (b"PK\x03\x04", b"\x80")
"""How files of torch.save begin: a zip archive, or a pickle in the old format."""


class TakenOver(Exception):
    """Another request goes on with this upload: the sender had given this one up."""


class Receivers:
    """Lets one request at a time write to an upload; a newer one takes over from an older."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._newest: dict[str, object] = {}

    @asynccontextmanager
    async def receive(self, upload_id: str) -> AsyncIterator[Turn]:
        token = object()
        self._newest[upload_id] = token
        try:
            yield Turn(self, upload_id, token)
        finally:
            if self._newest.get(upload_id) is token:
                del self._newest[upload_id]
                self._locks.pop(upload_id, None)

    @asynccontextmanager
    async def hold(self, upload_id: str, token: object) -> AsyncIterator[None]:
        async with self._locks[upload_id]:
            if self._newest.get(upload_id) is not token:
                raise TakenOver
            yield


class Turn:
    """One request's right to write to an upload."""

    def __init__(self, receivers: Receivers, upload_id: str, token: object) -> None:
        self._receivers = receivers
        self._upload_id = upload_id
        self._token = token

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Around each write. Raises TakenOver when a newer request has come."""
        async with self._receivers.hold(self._upload_id, self._token):
            yield


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
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        return "its safetensors header is no JSON object: the file is damaged"
    ends = [entry.get("data_offsets", [0, 0])[-1] for name, entry in header.items() if _is_tensor(name, entry)]
    if max(ends, default=0) != upload.size - 8 - length:
        return "its safetensors header tells of more or fewer bytes than there are: the file is cut off or damaged"
    return None


def _is_tensor(name: str, entry: object) -> bool:
    if name == "__metadata__" or not isinstance(entry, dict):
        return False
    offsets = entry.get("data_offsets")
    return isinstance(offsets, list) and len(offsets) == 2 and all(isinstance(offset, int) for offset in offsets)
