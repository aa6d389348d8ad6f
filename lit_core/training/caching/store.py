"""The files of one entry of the cache: for each piece and view the values of all samples, and marks of what is there.

Files are mapped into memory by all processes that use the entry. A row's values are written first and its mark last,
both under the entry's lock, so that who sees the mark sees the values, also after the writer was killed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from lit_core.training.caching.folder import CacheFolder, identity_of, size_of
from lit_core.training.caching.pieces import Piece
from lit_spec import CachedType

WRITING = "writing"


class PieceFile:
    """One piece in one view. Raises OSError."""

    def __init__(self, path: Path, samples: int, values: int, dtype: CachedType) -> None:
        size = samples * values * dtype.bytes
        # It keeps no descriptor, of which a process has 1,024: there may be more pieces and views.
        try:
            mapped = torch.from_file(str(path), shared=True, size=size + samples, dtype=torch.uint8)
        except RuntimeError as failure:
            raise OSError(f"{path.name}: {failure}") from failure
        self.values = mapped[:size].view(torch_type(dtype)).view(samples, values)
        """(samples, values)"""
        self.written = mapped[size:]
        """(samples,): 1 for a row that is there."""


class Entry:
    """The files of an entry, which are made when they are first needed."""

    def __init__(self, folder: CacheFolder, path: Path, samples: int, dtype: CachedType) -> None:
        self.folder, self.path, self.samples, self.dtype = folder, path, samples, dtype
        self.identity = identity_of(path)
        self._files: dict[tuple[str, int], PieceFile] = {}
        self._lock = os.open(path / WRITING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        self._files.clear()
        os.close(self._lock)

    def file(self, piece: Piece, view: int) -> PieceFile:
        """Raises NoRoom, and OSError."""
        known = self._files.get((piece.name, view))
        if known is None:
            path = self.path / f"{piece.name}-{view}"
            self.folder.make_file(path, self.samples * (piece.values * self.dtype.bytes + 1))
            known = self._files[piece.name, view] = PieceFile(path, self.samples, piece.values, self.dtype)
        return known

    def are_there(self, files: list[PieceFile], rows: Tensor) -> Tensor:
        """For each of the rows (R,), whether it is in all files."""
        with self._locked(fcntl.LOCK_SH):
            found = torch.ones(len(rows), dtype=torch.bool)
            for file in files:
                found &= file.written[rows] == 1
        return found

    def write(self, file: PieceFile, rows: Tensor, values: Tensor) -> None:
        """Rows (R,) with their values (R, values), apart from those that are there by now."""
        with self._locked(fcntl.LOCK_EX):
            fresh = file.written[rows] == 0
            file.values[rows[fresh]] = values[fresh]
            file.written[rows[fresh]] = 1

    @property
    def bytes(self) -> int:
        """In its folder, which somebody may have removed."""
        return size_of(self.path)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        fcntl.flock(self._lock, kind)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def torch_type(dtype: CachedType) -> torch.dtype:
    found: torch.dtype = getattr(torch, dtype.value)
    return found
