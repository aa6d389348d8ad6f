"""The size of a zip archive's directory, known before a library reads all of it."""

from __future__ import annotations

import io
import struct
from pathlib import Path

END_OF_CENTRAL_DIRECTORY = struct.Struct("<4s4H2LH")
ZIP64_END = struct.Struct("<4sQ2H2L4Q")


def directory_bytes(path: Path) -> int:
    """0 for a file that is no zip archive."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        tail_start = max(0, size - END_OF_CENTRAL_DIRECTORY.size - 0xFFFF)
        file.seek(tail_start)
        tail = file.read()
        found = tail.rfind(b"PK\x05\x06")
        if found < 0 or found + END_OF_CENTRAL_DIRECTORY.size > len(tail):
            return 0
        directory: int = END_OF_CENTRAL_DIRECTORY.unpack_from(tail, found)[5]
        end64 = tail_start + found - 20 - ZIP64_END.size
        if end64 >= 0:
            file.seek(end64)
            record = file.read(ZIP64_END.size)
            if record[:4] == b"PK\x06\x06":
                directory = max(directory if directory != 0xFFFFFFFF else 0, ZIP64_END.unpack(record)[8])
    return directory
