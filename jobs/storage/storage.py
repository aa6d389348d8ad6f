"""The files of uploads and jobs behind one small interface. A shared folder and an object store implement it.

Storage has no WHERE, so nothing is ever changed under a key that a reader may know: an attempt writes under its own
number, and readers use the manifest in the ledger. The only exception is an upload before it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

RESERVED = (".tmp", ".pieces")
"""First parts that no key has: storage keeps what is being written there."""


class StorageKeyMissing(Exception):
    """Storage has no object with this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"storage has no {key}")
        self.key = key


class StorageBytesMissing(StorageKeyMissing):
    """Storage has fewer bytes under this key than were stored."""


class FinishedPieces(Protocol):
    """A file whose pieces are all there, but which is not yet published."""

    @property
    def sha256(self) -> str:
        """Hexadecimal, of all its bytes."""

    def open(self) -> BinaryIO:
        """Open for reading; seekable."""

    def publish(self) -> None:
        """Let readers find it under its key; durable, and quick enough to be called under a lock."""


@dataclass(frozen=True)
class DirectPart:
    """A part of a file that a client sends to the store itself."""

    number: int
    """From 1."""
    offset: int
    size: int
    url: str
    """Signed for a PUT of exactly this part."""
    etag: str | None
    """Of the part if the store already has it."""


class DirectParts(Protocol):
    """Uploads past the service: clients PUT the pieces to URLs that the storage has signed."""

    def parts(self, key: str, size: int, writer: int) -> list[DirectPart]:
        """The parts of an unfinished file of `size` bytes, with fresh URLs. `writer` as in `write_piece`."""

    def missing(self, key: str, size: int, etags: dict[int, str]) -> list[int]:
        """The numbers of the parts that the store does not have with the given ETag."""


class Storage(Protocol):
    """Keys are relative POSIX paths.

    Every method raises StorageKeyMissing if there is no object with the key, and StorageFault (an OSError) if the
    storage can't be read or written.

    An upload arrives in pieces, as an unfinished file: `write_piece`, `cut`, `sync`, `pieces_size` and `finish`.
    """

    @property
    def piece_bytes(self) -> int:
        """Size of the pieces that this storage takes best."""

    @property
    def fences_pieces(self) -> bool:
        """Whether `write_piece` needs no lock: one that arrives after that of a newer writer has no effect."""

    @property
    def direct(self) -> DirectParts | None:
        """None: clients can't send pieces to this storage themselves."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a copy of a file, durably and atomically: a reader sees all of it or what was there before."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Like `put_file`, for a few bytes."""

    def open(self, key: str, *, grows: bool = False) -> BinaryIO:
        """Open for reading; seekable. A read raises as `open` does, also if the object was replaced meanwhile.

        `grows`: whatever replaces the object begins with the same bytes, like a log. Then the file has the bytes that
        were there when it was opened.
        """

    def size(self, key: str) -> int:
        """In bytes."""

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> list[str]:
        """The keys that begin with a prefix, sorted."""

    def delete(self, key: str) -> None:
        """Remove an object. Does nothing if there is no object with this key."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove everything under a prefix that ends in a slash. Does nothing if there are no such objects."""

    def download_url(self, key: str) -> str | None:
        """A URL from which anybody can download the object for a while; None if this storage makes none."""

    def write_piece(self, key: str, offset: int, piece: bytes, writer: int) -> None:
        """Write a piece of an unfinished file at `offset`, where the earlier pieces end. What was stored beyond its
        end is not part of the file any more.

        Callers hold a lock, unless storage `fences_pieces`. `writer` grows with every caller that gets it, so that a
        write that arrives after its caller has lost the lock is recognised where that can happen.
        Raises StorageBytesMissing if there are fewer than `offset` bytes and this storage can tell at once;
        otherwise `finish` raises it.
        """

    def cut(self, key: str, offset: int) -> None:
        """Remove the bytes of an unfinished file from `offset` on."""

    def sync(self, key: str) -> None:
        """Make the pieces that were written durable."""

    def pieces_size(self, key: str) -> int:
        """How many bytes an unfinished file has from its beginning, without a gap; 0 if there is none."""

    def finish(self, key: str, size: int, sha256: str | None = None) -> AbstractContextManager[FinishedPieces]:
        """Make the pieces one file, which is published by its `publish` or not at all.

        Reads all of its bytes. `sha256`: that of the pieces as the caller has written them, in one go; then storage
        that leaves them where they are need not read them again.
        Leave the context after it is recorded that the file is complete: then the pieces are removed.
        Raises StorageBytesMissing if there are not exactly `size` bytes.
        """

    def check(self) -> None:
        """Raises StorageFault if nothing can be stored."""

    def remove_leftovers(self, seconds: float, unfinished: Callable[[], Mapping[str, int]]) -> None:
        """Remove what killed processes left while they wrote or removed something, if it is older than `seconds`.

        `unfinished` returns the keys of the files that still arrive in pieces, with their sizes.
        """


def key_parts(key: str) -> tuple[str, ...]:
    """The parts of a key. Raises ValueError if it is not a key."""
    parts = PurePosixPath(key).parts
    if (
        not parts
        or parts[0] in RESERVED
        or key.startswith("/")
        or "\0" in key
        or any(part in {"..", "."} for part in key.split("/"))
    ):
        raise ValueError(f"{key!r} is not a storage key")
    return parts


def checked_prefix(prefix: str) -> str:
    """The prefix of a removal. Raises ValueError if it is not the prefix of keys, or does not end in a slash."""
    if not prefix.endswith("/"):
        raise ValueError(f"the prefix {prefix!r} must end in a slash")
    key_parts(prefix)
    return prefix
