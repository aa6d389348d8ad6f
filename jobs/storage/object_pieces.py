"""Unfinished files in an object store, which can't append: each piece is an object until the file is whole.

A piece of the file KEY at an offset lies at `.pieces/KEY/OFFSET-WRITER`. The file consists of the piece at 0, the one
at its end, and so on. Of two pieces at one offset the one of the newer writer counts, so a write that arrives late,
after a newer writer took over, changes nothing. Pieces that this chain doesn't reach are leftovers.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import obstore
import structlog
from obstore.exceptions import BaseError

from jobs.storage.faults import StorageFault
from jobs.storage.media_types import attachment, media_type
from jobs.storage.object_files import Segment, open_segments
from jobs.storage.object_stores import object_faults
from jobs.storage.storage import DirectPart, FinishedPieces, StorageBytesMissing

PIECES = ".pieces"
PART_BYTES = 8 << 20
MOST_PARTS = 9000
"""S3 takes 10,000 parts of one object."""
CONCURRENT_PARTS = 4
READ_BYTES = 8 << 20
DIRECT_BYTES = 16 << 20
MOST_DIRECT_PARTS = 1000
CLOCKS_DIFFER = timedelta(minutes=5)
"""By so much at most the clocks of this machine and of the store differ."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Piece:
    offset: int
    writer: int
    segment: Segment

    @property
    def end(self) -> int:
        return self.offset + self.segment.size


def write_piece(store: Any, key: str, offset: int, piece: bytes, writer: int) -> None:
    if piece:
        with object_faults(key):
            obstore.put(store, piece_path(key, offset, writer), piece, use_multipart=False)


def cut(store: Any, key: str, offset: int) -> None:
    """Remove what lies beyond `offset`, and shorten the piece that reaches over it."""
    chain = read_chain(store, key)
    for piece in chain:
        if piece.offset < offset < piece.end:
            with open_segments(store, key, [piece.segment]) as file:
                write_piece(store, key, piece.offset, file.read(offset - piece.offset), piece.writer)
    remove(store, [piece.segment.path for piece in _all_pieces(store, key) if piece.offset >= offset])


def read_chain(store: Any, key: str) -> list[Piece]:
    """The pieces of an unfinished file from its beginning, without a gap."""
    newest = _newest(store, key)
    chain: list[Piece] = []
    end = 0
    while (piece := newest.get(end)) is not None:
        chain.append(piece)
        end = piece.end
    return chain


@contextmanager
def finish(store: Any, key: str, size: int) -> Iterator[FinishedPieces]:
    """Copy the pieces into one object, which appears when it is published. Reads and writes all bytes once."""
    chain = [piece for piece in read_chain(store, key) if piece.end <= size]
    if not chain or chain[-1].end != size:
        raise StorageBytesMissing(key)
    segments = [piece.segment for piece in chain]
    found = hashlib.sha256()
    with object_faults(key):
        writer = obstore.open_writer(
            store,
            key,
            attributes=file_attributes(key),
            buffer_size=part_bytes(size),
            max_concurrency=CONCURRENT_PARTS,
        )
    finished: _Copied | None = None
    try:
        with object_faults(key), open_segments(store, key, segments) as file:
            while block := file.read(READ_BYTES):
                found.update(block)
                writer.write(block)
        finished = _Copied(store, key, segments, found.hexdigest(), writer)
        yield finished
    finally:
        if finished is None or not finished.published:
            _abort(writer)
    if finished.published:
        # What stays behind is removed later with other leftovers.
        try:
            remove(store, [piece.segment.path for piece in _all_pieces(store, key)])
        except StorageFault as failure:
            log.warning("pieces left behind in storage", key=key, error=str(failure))


def _abort(writer: obstore.WritableFile) -> None:
    with suppress(BaseError, OSError, ValueError):
        abandoned = OSError("the file is not published")
        writer.__exit__(type(abandoned), abandoned, None)


@dataclass
class _Copied:
    store: Any
    key: str
    segments: list[Segment]
    sha256: str
    writer: obstore.WritableFile
    published: bool = False

    def open(self) -> BinaryIO:
        return open_segments(self.store, self.key, self.segments)

    def publish(self) -> None:
        with object_faults(self.key):
            self.writer.close()
        self.published = True


@dataclass(frozen=True)
class DirectPieces:
    """Pieces that clients send to the store themselves, with signed URLs."""

    store: Any
    seconds: int
    """For so long a URL is valid."""

    def parts(self, key: str, size: int, writer: int) -> list[DirectPart]:
        stored = _newest(self.store, key)
        step = _direct_bytes(size)
        offsets = range(0, size, step)
        with object_faults(key):
            paths = [piece_path(key, offset, writer) for offset in offsets]
            urls = obstore.sign(self.store, "PUT", paths, timedelta(seconds=self.seconds))
        return [
            DirectPart(number, offset, length, url, _etag(stored.get(offset), length))
            for number, (offset, url) in enumerate(zip(offsets, urls, strict=True), 1)
            for length in [min(step, size - offset)]
        ]

    def missing(self, key: str, size: int, etags: dict[int, str]) -> list[int]:
        stored = _newest(self.store, key)
        step = _direct_bytes(size)
        return [
            number
            for number, offset in enumerate(range(0, size, step), 1)
            for etag in [_etag(stored.get(offset), min(step, size - offset))]
            if etag is None or etag != etags.get(number, "").strip('"')
        ]


def _direct_bytes(size: int) -> int:
    return max(DIRECT_BYTES, -(-size // MOST_DIRECT_PARTS))


def _etag(piece: Piece | None, size: int) -> str | None:
    """The ETag of a piece, without its quotes, if it has this size."""
    if piece is None or piece.segment.size != size or piece.segment.etag is None:
        return None
    return piece.segment.etag.strip('"')


def piece_path(key: str, offset: int, writer: int) -> str:
    return f"{PIECES}/{key}/{offset:020}-{writer:010}"


def part_bytes(size: int) -> int:
    """Size of the parts in which a file of `size` bytes is written."""
    return max(PART_BYTES, -(-size // MOST_PARTS))


def file_attributes(key: str) -> dict[str, str]:
    """What the store tells whoever downloads the object from it."""
    name = key.rpartition("/")[2]
    return {"Content-Type": media_type(name), "Content-Disposition": attachment(name)}


def remove(store: Any, paths: list[str]) -> None:
    """Remove objects. Does nothing for those that are gone."""
    with object_faults():
        if paths:
            try:
                obstore.delete(store, paths)
            except FileNotFoundError:
                # Some stores stop at the first object that is gone, and leave those after it.
                for path in paths:
                    with suppress(FileNotFoundError):
                        obstore.delete(store, path)


def remove_leftovers(store: Any, unfinished: Mapping[str, int], age: timedelta, signed_seconds: int) -> None:
    """Remove the pieces that belong to no unfinished file and are older than `age`, and of the unfinished files, given
    with their sizes, those that are superseded or reach beyond the end, and whose signed URLs have expired.
    """
    now = datetime.now(UTC)
    expired = timedelta(seconds=signed_seconds) + CLOCKS_DIFFER
    listed: dict[str, list[Any]] = defaultdict(list)
    with object_faults():
        for chunk in obstore.list(store, f"{PIECES}/"):
            for item in chunk:
                listed[item["path"].removeprefix(f"{PIECES}/").rpartition("/")[0]].append(item)
    for key, items in listed.items():
        if (size := unfinished.get(key)) is None:
            remove(store, [item["path"] for item in items if now - item["last_modified"] > age])
            continue
        old = {item["path"] for item in items if now - item["last_modified"] > expired}
        pieces = [_piece(item) for item in items]
        counting = {piece.segment.path for piece in _newest_of(pieces).values() if piece.end <= size}
        remove(store, [piece.segment.path for piece in pieces if piece.segment.path in old - counting])


def _newest(store: Any, key: str) -> dict[int, Piece]:
    return _newest_of(_all_pieces(store, key))


def _newest_of(pieces: Sequence[Piece]) -> dict[int, Piece]:
    """Of each offset the piece of the newest writer."""
    found: dict[int, Piece] = {}
    for piece in sorted(pieces, key=lambda piece: piece.writer):
        if piece.segment.size:
            found[piece.offset] = piece
    return found


def _all_pieces(store: Any, key: str) -> list[Piece]:
    with object_faults(key):
        listed = [item for chunk in obstore.list(store, f"{PIECES}/{key}/") for item in chunk]
    return [_piece(item) for item in listed]


def _piece(item: Any) -> Piece:
    offset, _, writer = item["path"].rpartition("/")[2].partition("-")
    return Piece(int(offset), int(writer), Segment(item["path"], item["size"], item["e_tag"]))
