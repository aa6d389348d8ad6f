"""The folder of all caches on a machine: one entry for each teacher, data and views, bounded, evicted by age.

Processes that share the folder take turns with a lock on it. An entry that a process has open is locked by that
process, and never removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lit_core.data.store.disk import free_bytes, most_bytes_of_file

LOCK, USED, BOOT, UNFINISHED = ".lock", "used", "boot", ".part"

log = logging.getLogger(__name__)


class NoRoom(Exception):
    """A file would make the cache too large; the text says for what."""


@dataclass
class CacheFolder:
    root: Path
    most_bytes: int
    """Of all entries together."""
    most_bytes_of_entry: int
    reserve_bytes: int = 0
    """Of the disk, which stay free."""

    @contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """The folder of an entry, which stays until it is closed. Raises OSError."""
        with self._locked():
            path = self.root / name
            path.mkdir(parents=True, exist_ok=True)
            used = os.open(path / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(used, fcntl.LOCK_SH)
                _empty_after_reboot(path)
                os.utime(used)
            except BaseException:
                os.close(used)
                raise
        try:
            yield path
        finally:
            # By the open file, which is there also when somebody has removed the entry. The time only orders what is
            # removed for room: a disk that fails must not hide how the use ended.
            with suppress(OSError):
                os.utime(used)
            os.close(used)

    def room(self, name: str) -> int:
        """Bytes that this entry may have, if all that nobody uses is removed for it. Raises OSError."""
        with self._locked():
            own, idle, used = 0, 0, 0
            for entry in self._entries():
                if entry.name == name:
                    own = size_of(entry)
                elif _is_used(entry):
                    used += size_of(entry)
                else:
                    idle += size_of(entry)
            return max(0, min(self.most_bytes_of_entry, self.most_bytes - used, own + idle + self._free_bytes()))

    def tidy(self) -> None:
        """Remove what is too much for the folder's bound or for the disk, and that nobody uses. Raises OSError."""
        with self._locked(), suppress(NoRoom):
            self._make_room(0)

    def make_file(self, path: Path, size: int) -> None:
        """Make a file of zeros whose bytes are all allocated, in an entry that is open. A file of this size that is
        there stays as it is. Raises NoRoom, and OSError."""
        with self._locked():
            if path.exists() and path.stat().st_size == size:
                return
            entry = path.parent
            # Of a process that was killed: nobody else makes one while this one holds the lock.
            for unfinished in entry.glob(f"*{UNFINISHED}"):
                unfinished.unlink()
            if size > most_bytes_of_file() or size_of(entry) + size > self.most_bytes_of_entry:
                raise NoRoom(f"{size} more bytes are more than one job may have on this worker")
            self._make_room(size)
            temporary = path.with_suffix(UNFINISHED)
            try:
                with temporary.open("wb") as file:
                    # A hole in a mapped file would end the process when the disk is full.
                    os.posix_fallocate(file.fileno(), 0, size)
                temporary.rename(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def _make_room(self, size: int) -> None:
        entries = sorted(self._entries(), key=lambda entry: (entry / USED).stat().st_mtime)
        sizes = {entry: size_of(entry) for entry in entries}
        idle = [entry for entry in sizes if not _is_used(entry)]
        in_use = sum(sizes.values()) - sum(sizes[entry] for entry in idle)
        if size > 0 and in_use + size > self.most_bytes:
            raise _no_room(size)  # whatever was removed
        while sum(sizes.values()) + size > self.most_bytes or size > self._free_bytes():
            if not idle:
                raise _no_room(size)
            oldest = idle.pop(0)
            log.info("removed the cached teacher %s of %d bytes, the oldest one", oldest.name, sizes.pop(oldest))
            _remove(oldest)

    def _free_bytes(self) -> int:
        return free_bytes(self.root, self.reserve_bytes)

    def _entries(self) -> list[Path]:
        return [entry for entry in self.root.iterdir() if (entry / USED).is_file()]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _no_room(size: int) -> NoRoom:
    return NoRoom(
        f"{size} more bytes are more than LIT_TEACHER_CACHE_BYTES or this worker's disk allows, of which "
        "LIT_DISK_RESERVE_BYTES stay free"
    )


def _empty_after_reboot(entry: Path) -> None:
    """What was written before the machine last started may have reached the disk only in part, whatever the marks
    say: nobody waits for the disk when samples are written."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    mark = entry / BOOT
    if mark.exists() and mark.read_text().split()[:1] == [boot]:
        return
    for path in entry.iterdir():
        if path.name != USED:
            path.unlink()
    mark.write_text(f"{boot} {uuid.uuid4().hex}")


def identity_of(entry: Path) -> str:
    """Of an open entry: another one once it has been emptied or removed."""
    return (entry / BOOT).read_text().split()[1]


def _is_used(entry: Path) -> bool:
    used = os.open(entry / USED, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(used)


def _remove(entry: Path) -> None:
    """The file that makes it an entry last, so that what is left after a kill is still known as one."""
    for path in entry.iterdir():
        if path.name != USED:
            path.unlink()
    shutil.rmtree(entry)


def size_of(entry: Path) -> int:
    """Bytes of its files. Without the folder's lock, other processes may give them other names or remove them."""
    total = 0
    with suppress(FileNotFoundError):
        for path in entry.iterdir():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
    return total
