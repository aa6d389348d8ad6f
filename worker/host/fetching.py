"""Copies from storage to this machine's disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jobs.storage.storage import Storage, StorageBytesMissing

CHUNK_BYTES = 8 << 20


def fetch(storage: Storage, key: str, path: Path, check: Callable[[], None], size: int | None = None) -> None:
    """Copy an object to a file. `check` is called between pieces and may raise to interrupt, however large the object.

    Raises StorageKeyMissing, also if the object does not have the given `size`.
    """
    with storage.open(key) as source, path.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            check()
            target.write(chunk)
        if size is not None and target.tell() != size:
            raise StorageBytesMissing(key)
