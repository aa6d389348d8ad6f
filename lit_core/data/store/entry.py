"""A folder on the worker's disk with decoded data sets, which jobs with the same data share.

STORE/KEY/lock         held by everyone who uses the entry; an entry that nobody holds may be removed
          building     held by the one who decodes
          rows         (N, H, W, C) uint8, at the size that the network takes
          statistics   of each row
          shape.json   height and width
          marks        a byte per row: 1 when the row and its statistics are on the disk
          complete     there when all rows are
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_core.data.store.disk import free_bytes

LOCK, BUILDING, ROWS, STATISTICS, SHAPE = "lock", "building", "rows", "statistics", "shape.json"
MARKS, COMPLETE = "marks", "complete"
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
REMOVED = ".removed-"
NO_LIMIT = 1 << 62
"""Bytes of a store that ends with its job."""
WAIT_SECONDS = 0.2
"""Between two looks at whether another process has decoded the data set."""

log = logging.getLogger(__name__)


class Entry:
    """A data set in a store. It isn't removed while this object is open, which a garbage-collected one isn't."""

    def __init__(self, folder: Path, lock: int, store: DataStore) -> None:
        self.folder, self._lock, self._store = folder, lock, store

    @property
    def rows(self) -> Path:
        return self.folder / ROWS

    @property
    def statistics(self) -> Path:
        return self.folder / STATISTICS

    @property
    def shape(self) -> Path:
        return self.folder / SHAPE

    @property
    def bytes_on_disk(self) -> int:
        """Of rows and statistics. What was not written yet takes none."""
        return sum(path.stat().st_blocks * 512 for path in (self.rows, self.statistics) if path.exists())

    @property
    def is_complete(self) -> bool:
        return (self.folder / COMPLETE).exists()

    @contextmanager
    def building(self, check: Callable[[], None]) -> Iterator[None]:
        """Only one process at a time. `check` is called while another one has it, and may raise."""
        file = _opened(self.folder / BUILDING)
        try:
            while not _locked(file, fcntl.LOCK_EX):
                check()
                time.sleep(WAIT_SECONDS)
            yield
        finally:
            os.close(file)

    def marks(self, rows: int) -> NDArray[np.uint8]:
        """(N,): 1 for the rows that are there."""
        try:
            found = np.fromfile(self.folder / MARKS, dtype=np.uint8)
        except FileNotFoundError:
            found = np.zeros(0, dtype=np.uint8)
        return found if len(found) == rows else np.zeros(rows, dtype=np.uint8)

    def allocate(self, rows_bytes: int, statistics_bytes: int) -> None:
        """Files of these sizes. What they have is kept."""
        for path, size in ((self.rows, rows_bytes), (self.statistics, statistics_bytes)):
            file = _opened(path)
            try:
                os.truncate(file, size)
            finally:
                os.close(file)

    def mark(self, marks: NDArray[np.uint8]) -> None:
        """Put everything on the disk, and then note which rows are there."""
        self._sync(self.rows, self.statistics, self.shape)
        partial = self.folder / f"{MARKS}.partial"
        partial.write_bytes(marks.tobytes())
        self._sync(partial)
        partial.replace(self.folder / MARKS)

    def complete(self, marks: NDArray[np.uint8]) -> None:
        self.mark(marks)
        (self.folder / COMPLETE).touch(PRIVATE_FILE)

    def close(self) -> None:
        if self._lock >= 0:
            # It was in use until now. The time only orders what is removed: a disk that fails must not keep it locked.
            with suppress(OSError):
                os.utime(self._lock)
            os.close(self._lock)
            self._lock = -1

    def __del__(self) -> None:
        with suppress(OSError):
            self.close()

    def _sync(self, *paths: Path) -> None:
        for path in paths if self._store.durable else ():
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(file)
            finally:
                os.close(file)


@dataclass(frozen=True)
class DataStore:
    """The folder of all entries of a worker."""

    folder: Path
    limit_bytes: int
    """Entries that nobody uses are removed, those that were not used for longest first, until the others and the new
    one take no more. Those in use stay, so that all together may take more meanwhile."""
    seconds: float | None = None
    """Entries that were not used for longer are removed. None: only for room."""
    processes: int | None = None
    """That decode at the same time. None: as many as torch has threads here."""
    durable: bool = True
    """Whether what is marked must outlive a crash of the machine."""
    reserve_bytes: int = 0
    """Of the disk, which removing what nobody uses keeps free."""

    @classmethod
    def temporary(cls) -> DataStore:
        """A store that is removed with the last of its entries."""
        folder = tempfile.TemporaryDirectory(prefix="lit-data-", ignore_cleanup_errors=True)
        store = cls(Path(folder.name), NO_LIMIT, durable=False)
        weakref.finalize(store, folder.cleanup)
        return store

    def open(self, key: str) -> Entry:
        """The entry of a data set, which is perhaps empty. Raises OSError."""
        self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        folder = self.folder / key
        while True:
            folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            with suppress(FileNotFoundError):
                lock = _opened(folder / LOCK)
                fcntl.flock(lock, fcntl.LOCK_SH)
                # Another process may have removed it in between.
                if _is_at(lock, folder / LOCK):
                    os.utime(lock)
                    return Entry(folder, lock, self)
                os.close(lock)

    def make_room(self, wanted: int, keep: Entry) -> None:
        """Remove what is old, and what stands in the way of `wanted` bytes for all of the entry `keep`.

        Raises OSError.
        """
        self._remove(wanted, keep)

    def tidy(self) -> None:
        """Remove what is old, and what is too much for the store's bound or for the disk. Raises OSError."""
        self._remove(0, None)

    def _remove(self, wanted: int, keep: Entry | None) -> None:
        folder, there = (keep.folder, keep.bytes_on_disk) if keep is not None else (None, 0)
        others = sorted(
            (kept for kept in _Kept.all_in(self.folder) if kept.folder != folder), key=lambda kept: kept.used
        )
        total = wanted + sum(kept.size for kept in others)
        for kept in others:
            short = total > self.limit_bytes or free_bytes(self.folder, self.reserve_bytes) < wanted - there
            expired = self.seconds is not None and time.time() - kept.used > self.seconds
            if (expired or short) and _removed(kept.folder):
                total -= kept.size


@dataclass(frozen=True)
class _Kept:
    folder: Path
    size: int
    """What it has or will have."""
    used: float
    """In seconds since 1970."""

    @classmethod
    def all_in(cls, folder: Path) -> Iterator[_Kept]:
        for path in folder.iterdir():
            if path.name.startswith(REMOVED):  # by a process that was killed meanwhile
                shutil.rmtree(path, ignore_errors=True)
                continue
            with suppress(OSError):
                size = sum(file.stat().st_size for file in path.iterdir())
                yield cls(path, size, (path / LOCK).stat().st_mtime)


def _removed(folder: Path) -> bool:
    """Remove an entry, unless somebody uses it. One that can't be removed must not keep jobs from using others."""
    try:
        return _removed_unless_used(folder)
    except FileNotFoundError:
        return False
    except OSError as failure:
        log.warning("the decoded data set %s can't be removed: %s", folder.name, failure)
        return False


def _removed_unless_used(folder: Path) -> bool:
    lock = _opened(folder / LOCK, create=False)
    try:
        if not _locked(lock, fcntl.LOCK_EX) or not _is_at(lock, folder / LOCK):
            return False
        # At once out of the way of those who open it now.
        away = folder.with_name(f"{REMOVED}{uuid.uuid4().hex}")
        folder.rename(away)
    finally:
        os.close(lock)
    shutil.rmtree(away, ignore_errors=True)
    return True


def _opened(path: Path, *, create: bool = True) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), PRIVATE_FILE)


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
