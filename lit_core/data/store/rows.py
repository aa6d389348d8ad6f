"""The samples of a split: a tensor, or rows of a file, of which only those that are asked for are in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_core.data.store.decoder import HASH_BYTES, statistics_bytes
from lit_core.data.store.entry import Entry

CHUNK_BYTES = 32 << 20


class Rows(Protocol):
    """Samples (N, …) of a split. A `Tensor` is one; a `StoredRows` reads them from the disk."""

    @property
    def shape(self) -> torch.Size: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice | Tensor, /) -> Tensor: ...


class RowFile:
    """A file of rows, which stays open as long as this object lives."""

    def __init__(self, path: Path, offset: int, row_shape: tuple[int, ...], dtype: torch.dtype, entry: object) -> None:
        """`row_shape` is that of a row as it lies in the file, from `offset` on. `entry` lives as long as this."""
        self.offset, self.row_shape, self.dtype, self._entry = offset, row_shape, dtype, entry
        self.row_bytes = dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """(B, …) in the file's order of axes. Not by a memory map, whose pages would count as this process's memory."""
        made = torch.empty(len(rows), *self.row_shape, dtype=self.dtype)
        target = memoryview(made.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # it is a buffer
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()
        for start, end in pairwise([*starts, len(rows)]):
            piece = target[start * self.row_bytes : end * self.row_bytes]
            self._fill(piece, self.offset + int(rows[start]) * self.row_bytes)
        return made

    def _fill(self, target: memoryview, offset: int) -> None:
        while target:
            count = os.preadv(self._file, [target], offset)
            if count == 0:
                raise OSError("a file of decoded images is shorter than it was")
            target, offset = target[count:], offset + count

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


@dataclass
class _Ahead:
    rows: NDArray[np.int64]
    made: Future[Tensor]


@dataclass
class StoredRows:
    """Images (N, C, H, W) in a file, uint8 or float32. `rows` says which of the file's rows they are."""

    file: RowFile
    rows: NDArray[np.int64]
    channels_last: bool
    """Whether a row lies in the file as (H, W, C)."""
    statistics: Path | None = None
    """The file with the statistics of uint8 rows."""
    _thread: ThreadPoolExecutor | None = field(default=None, repr=False)
    _ahead: _Ahead | None = field(default=None, repr=False)

    @property
    def shape(self) -> torch.Size:
        row = self.file.row_shape
        return torch.Size((len(self.rows), *((row[2], row[0], row[1]) if self.channels_last else row)))

    @property
    def dtype(self) -> torch.dtype:
        return self.file.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        wanted = self._of(rows)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and np.array_equal(ahead.rows, wanted):
            return ahead.made.result()
        return self._read(wanted)

    def subset(self, rows: Tensor) -> StoredRows:
        """Nothing is copied but the numbers of the rows."""
        return StoredRows(self.file, self._of(rows), self.channels_last, self.statistics)

    def expect(self, rows: Tensor) -> None:
        """Read these rows in another thread, so that they are there when they are asked for next."""
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="rows")
        wanted = self._of(rows)
        self._ahead = _Ahead(wanted, self._thread.submit(self._read, wanted))

    def hashes(self) -> NDArray[np.int64]:
        """(N,): equal for equal images. Only with statistics."""
        return self._statistics()[:, 0]

    def moments(self) -> tuple[list[int], list[int]]:
        """The sum and the sum of squares of each channel. They are exact. Only with statistics."""
        # 2^63 is the sum of squares of 10^14 values, more than a disk holds.
        sums = self._statistics()[:, 1:].sum(axis=0).tolist()
        return sums[0::2], sums[1::2]

    def _statistics(self) -> NDArray[np.int64]:
        if self.statistics is None:
            raise ValueError("these rows have no statistics")
        width = statistics_bytes(self.shape[1]) // HASH_BYTES
        return np.fromfile(self.statistics, dtype="<i8").reshape(-1, width)[self.rows]

    def _of(self, rows: slice | Tensor) -> NDArray[np.int64]:
        return self.rows[rows if isinstance(rows, slice) else rows.numpy()]

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        made = self.file.read(rows)
        return made.permute(0, 3, 1, 2) if self.channels_last else made


def rows_of_entry(entry: Entry, samples: int, channels: int, height: int, width: int) -> StoredRows:
    """All images of a complete entry."""
    file = RowFile(entry.rows, 0, (height, width, channels), torch.uint8, entry)
    return StoredRows(file, np.arange(samples), channels_last=True, statistics=entry.statistics)


def subset(x: Rows, rows: Tensor) -> Rows:
    """Some rows, in that order: of a tensor a copy."""
    return x.subset(rows) if isinstance(x, StoredRows) else x[rows]


def expect(x: Rows, rows: Tensor) -> None:
    """Tell which rows will be asked for next, so that they are read meanwhile."""
    if isinstance(x, StoredRows):
        x.expect(rows)


def pieces(x: Rows) -> Iterator[Tensor]:
    """All samples, in pieces that fit well into memory."""
    row_bytes = x.dtype.itemsize * max(1, x.shape[1:].numel())
    step = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, len(x), step):
        yield x[start : start + step]


def bytes_of(x: Rows) -> int:
    return x.shape.numel() * x.dtype.itemsize


def digest_of(x: Rows) -> str:
    """The sha256 of all samples; of stored images that of their hashes, which are known without reading them."""
    found = hashlib.sha256(f"{x.dtype} {list(x.shape)}".encode())
    if isinstance(x, StoredRows) and x.statistics is not None:
        found.update(x.hashes().tobytes())
        return found.hexdigest()
    for piece in pieces(x):
        found.update(piece.contiguous().numpy().tobytes())
    return found.hexdigest()


def hash_of(sample: Tensor) -> int:
    """The same as the store's, of an image (C, H, W), or of any other sample."""
    last = sample.movedim(0, -1) if sample.ndim == 3 else sample
    digest = hashlib.sha256(last.contiguous().numpy().tobytes()).digest()
    return int.from_bytes(digest[:HASH_BYTES], "little", signed=True)
