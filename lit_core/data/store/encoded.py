"""The bytes of an image file, or where they lie, so that another process can read them. Without torch and pydantic."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass


class Unreadable(Exception):
    """The bytes are not there as announced. Whoever walks the archive in the usual way finds out why."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A piece of a file."""

    path: str
    offset: int
    length: int
    deflated: bool = False
    """Whether it is compressed by DEFLATE, without a header, as in a zip archive."""
    crc: int | None = None
    """CRC-32 of the content. None: it is not known."""

    def read(self, size: int) -> bytes:
        """The content, which has `size` bytes. Raises Unreadable, and OSError."""
        with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123  # pathlib takes a while to import
            content = os.pread(file.fileno(), self.length, self.offset)
        if self.deflated:
            unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                content = unpacking.decompress(content, size + 1)
            except zlib.error as failure:
                raise Unreadable from failure
        if len(content) != size or (self.crc is not None and zlib.crc32(content) != self.crc):
            raise Unreadable
        return content


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image file of a data set."""

    row: int
    """Where the decoded image goes."""
    name: str
    size: int
    """Bytes of the file."""
    content: bytes | Extent

    def read(self) -> bytes:
        """Raises Unreadable, and OSError."""
        return self.content if isinstance(self.content, bytes) else self.content.read(self.size)

    @property
    def held_bytes(self) -> int:
        """What it takes in the memory of whoever holds it."""
        return len(self.content) if isinstance(self.content, bytes) else 0
