"""Reads objects as files: by ranges, with read-ahead."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, BinaryIO, cast

import obstore

from jobs.storage.object_stores import missing_as

FIRST_BYTES, MOST_BYTES = 256 << 10, 8 << 20
"""So much is fetched at once: little at first, twice as much each time while the reading goes straight on."""
BUFFER_BYTES = 64 << 10


@dataclass(frozen=True)
class Segment:
    """One object, which is all of a file or a part of it."""

    path: str
    size: int
    etag: str | None
    """Other bytes than these are never read. None: whatever replaces the object begins with the same bytes."""


def open_segments(store: Any, key: str, segments: Sequence[Segment]) -> BinaryIO:
    """The objects, one after the other, as one file: seekable, and buffered with at most 8 MiB.

    A read raises StorageKeyMissing and StorageFault.
    """
    return cast(BinaryIO, io.BufferedReader(_Segments(store, key, segments), BUFFER_BYTES))


class _Segments(io.RawIOBase):
    def __init__(self, store: Any, key: str, segments: Sequence[Segment]) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._segments = segments
        self._ends = list(accumulate(segment.size for segment in segments))
        self._position = 0
        self._block = memoryview(b"")
        self._block_start = 0
        self._ahead = FIRST_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        if self._position >= self._size:
            return 0
        if not self._block_start <= self._position < self._block_start + len(self._block):
            self._fetch(len(buffer))
        inside = self._position - self._block_start
        taken = self._block[inside : inside + len(buffer)]
        buffer[: len(taken)] = taken
        self._position += len(taken)
        return len(taken)

    @property
    def _size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _fetch(self, wanted: int) -> None:
        straight_on = self._position == self._block_start + len(self._block)
        self._ahead = min(2 * self._ahead, MOST_BYTES) if straight_on and len(self._block) else FIRST_BYTES
        number = bisect_right(self._ends, self._position)
        segment = self._segments[number]
        start = self._position - (self._ends[number] - segment.size)
        end = min(start + min(max(wanted, self._ahead), MOST_BYTES), segment.size)
        options: dict[str, Any] = {"range": (start, end)}
        if segment.etag is not None:
            options["if_match"] = segment.etag
        with missing_as(self._key):
            self._block = memoryview(obstore.get(self._store, segment.path, options=options).bytes())  # type: ignore[arg-type]
        self._block_start = self._position
