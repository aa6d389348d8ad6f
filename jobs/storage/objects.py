"""An object store as storage: S3 and what is compatible with it, Google Cloud Storage and Azure."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import obstore

from jobs.settings import Settings
from jobs.storage import object_pieces
from jobs.storage.object_files import Segment, open_segments
from jobs.storage.object_pieces import (
    CONCURRENT_PARTS,
    PIECES,
    DirectPieces,
    file_attributes,
    part_bytes,
    read_chain,
    remove,
)
from jobs.storage.object_stores import missing_as, object_faults, open_store
from jobs.storage.storage import RESERVED, DirectParts, FinishedPieces, StorageKeyMissing, checked_prefix, key_parts

PIECE_BYTES = 8 << 20
PROBE_KEY = ".tmp/probe"
PROBE_SECONDS = 5.0
LEFTOVERS_EVERY_SECONDS = 3600.0
"""The whole list of pieces is read no more often than this."""


class ObjectStorage:
    """Objects under the prefix of `LIT_STORAGE_URL`. What is written is durable and visible at once, or not at all."""

    piece_bytes = PIECE_BYTES
    fences_pieces = True

    def __init__(self, settings: Settings) -> None:
        if settings.storage_url is None:
            raise ValueError("the settings name no object store")
        self._store = open_store(settings.storage_url, settings)
        self._probe_store = open_store(
            settings.storage_url, settings, timeout=min(PROBE_SECONDS, settings.storage_timeout_seconds), retry=0
        )
        self._is_azure = settings.storage_url.startswith("az://")
        self._signed_seconds = settings.presigned_seconds
        self._leftovers_looked_at: float | None = None

    @property
    def direct(self) -> DirectParts | None:
        if not self._signed_seconds or self._is_azure:  # Azure wants a header that is its own with every PUT
            return None
        return DirectPieces(self._store, self._signed_seconds)

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            size = path.stat().st_size
            with object_faults(key):
                obstore.put(
                    self._store,
                    _path(key),
                    source,
                    attributes=file_attributes(key),
                    chunk_size=part_bytes(size),
                    max_concurrency=CONCURRENT_PARTS,
                )

    def put_bytes(self, key: str, data: bytes) -> None:
        with object_faults(key):
            obstore.put(self._store, _path(key), data, use_multipart=False)

    def open(self, key: str, *, grows: bool = False) -> BinaryIO:
        found = self._head(key)
        etag = None if grows else found["e_tag"]
        return open_segments(self._store, key, [Segment(_path(key), found["size"], etag)])

    def size(self, key: str) -> int:
        return int(self._head(key)["size"])

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except StorageKeyMissing:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        if prefix.strip("/"):
            key_parts(prefix)
        # The store lists whole folders only.
        folder = prefix.rpartition("/")[0]
        with object_faults(prefix):
            paths = [item["path"] for chunk in obstore.list(self._store, folder or None) for item in chunk]
        return sorted(path for path in paths if path.startswith(prefix) and path.split("/")[0] not in RESERVED)

    def delete(self, key: str) -> None:
        self._remove([_path(key)])

    def delete_prefix(self, prefix: str) -> None:
        folder = checked_prefix(prefix)
        for start in (folder, f"{PIECES}/{folder}"):
            with object_faults(prefix):
                paths = [item["path"] for chunk in obstore.list(self._store, start) for item in chunk]
            self._remove(paths)

    def download_url(self, key: str) -> str | None:
        if not self._signed_seconds:
            return None
        with object_faults(key):
            return obstore.sign(self._store, "GET", _path(key), timedelta(seconds=self._signed_seconds))

    def write_piece(self, key: str, offset: int, piece: bytes, writer: int) -> None:
        object_pieces.write_piece(self._store, _path(key), offset, piece, writer)

    def cut(self, key: str, offset: int) -> None:
        object_pieces.cut(self._store, _path(key), offset)

    def sync(self, key: str) -> None:
        """Nothing: each piece is durable once it is written."""

    def pieces_size(self, key: str) -> int:
        chain = read_chain(self._store, _path(key))
        return chain[-1].end if chain else 0

    def finish(self, key: str, size: int, sha256: str | None = None) -> AbstractContextManager[FinishedPieces]:  # noqa: ARG002 - pieces are read, to be put together
        return object_pieces.finish(self._store, _path(key), size)

    def check(self) -> None:
        with object_faults():
            obstore.put(self._probe_store, PROBE_KEY, b"", use_multipart=False)

    def remove_leftovers(self, seconds: float, unfinished: Callable[[], Mapping[str, int]]) -> None:
        """Only pieces: parts of an object that was never published are removed by the bucket's own rule.

        Of an unfinished file those that can't become part of it, once nobody can send them again by a signed URL.
        """
        now = time.monotonic()
        last = self._leftovers_looked_at
        if last is not None and now - last < LEFTOVERS_EVERY_SECONDS:
            return
        sizes = unfinished()
        object_pieces.remove_leftovers(self._store, sizes, timedelta(seconds=seconds), self._signed_seconds)
        self._leftovers_looked_at = now

    def _head(self, key: str) -> Any:
        with missing_as(key):
            return obstore.head(self._store, _path(key))

    def _remove(self, paths: builtins.list[str]) -> None:
        remove(self._store, paths)


def _path(key: str) -> str:
    return "/".join(key_parts(key))
