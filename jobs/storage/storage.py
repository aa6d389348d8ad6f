"""The files of uploads and jobs behind one small interface, which a shared folder implements.

Storage has no WHERE, so nothing is ever changed under a key that a reader may know: an attempt writes under its own
number, and readers use the manifest in the ledger. The only exception is an upload while its bytes arrive.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from jobs import disks
from jobs.private_files import PRIVATE_FILE, close_to_others, make_private_folder
from jobs.settings import Settings
from jobs.storage import layout
from jobs.storage.faults import storage_faults

TEMPORARY = ".tmp"
OWN_NAMES = {TEMPORARY, *layout.TOP_FOLDERS, "lost+found"}
"""What may lie in the root: what we store, and what a disk of its own has there."""
"""The one folder for files that are being written or removed. Leftovers of killed processes are found there."""


class StorageKeyMissing(Exception):
    """Storage has no object with this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"storage has no {key}")
        self.key = key


class StorageBytesMissing(StorageKeyMissing):
    """Storage has fewer bytes under this key than were stored."""


class Storage(Protocol):
    """Keys are relative POSIX paths.

    Every method raises StorageKeyMissing if there is no object with the key, and StorageFault (an OSError) if the
    storage can't be read or written.
    """

    def put_file(self, key: str, path: Path) -> None:
        """Store a copy of a file, durably and atomically: a reader sees all of it or what was there before."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Like `put_file`, for a few bytes."""

    def open(self, key: str) -> BinaryIO:
        """Open for reading; seekable."""

    def size(self, key: str) -> int:
        """In bytes."""

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> list[str]:
        """The keys that begin with a prefix, sorted."""

    def delete(self, key: str) -> None:
        """Remove an object. Does nothing if there is no object with this key."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove everything under a prefix that ends in a slash. Does nothing if there are no such objects."""

    def append(self, key: str, offset: int, chunk: bytes) -> None:
        """Write the next piece of an upload at `offset` and cut off what is beyond it. Neither atomic nor durable.

        Raises StorageBytesMissing if there are fewer than `offset` bytes.
        """

    def sync(self, key: str) -> None:
        """Make what was appended durable."""

    def check(self) -> None:
        """Raises StorageFault if nothing can be stored."""

    def remove_leftovers(self, seconds: float) -> None:
        """Remove what killed processes left while they wrote or removed something, if it is older than `seconds`."""


class FolderStorage:
    """A folder, which API and workers on several machines may share, for example by NFS."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        make_private_folder(self.root)
        close_to_others(self.root, lambda path: path.name in OWN_NAMES)

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source, storage_faults():
            self._put(key, source)

    @storage_faults()
    def put_bytes(self, key: str, data: bytes) -> None:
        self._put(key, io.BytesIO(data))

    @storage_faults()
    def open(self, key: str) -> BinaryIO:
        with _missing_as(key):
            return self._path(key).open("rb")

    @storage_faults()
    def size(self, key: str) -> int:
        # NFS brings what it knows of a file up to date when the file is opened.
        with self.open(key) as file:
            return os.fstat(file.fileno()).st_size

    @storage_faults()
    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    @storage_faults()
    def list(self, prefix: str) -> list[str]:
        start = self.root
        if prefix.strip("/"):
            path = self._path(prefix)
            start = path if prefix.endswith("/") else path.parent
        found: list[str] = []
        for folder, subfolders, names in os.walk(start):
            if Path(folder) == self.root and TEMPORARY in subfolders:
                subfolders.remove(TEMPORARY)
            keys = (Path(folder, name).relative_to(self.root).as_posix() for name in names)
            found.extend(key for key in keys if key.startswith(prefix))
        return sorted(found)

    @storage_faults()
    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    @storage_faults()
    def delete_prefix(self, prefix: str) -> None:
        if not prefix.endswith("/"):
            raise ValueError(f"the prefix {prefix!r} must end in a slash")
        folder = self._path(prefix)
        if folder.exists():
            # Renamed first, so that a reader sees all of it or nothing.
            doomed = self._temporary()
            folder.rename(doomed)
            shutil.rmtree(doomed)

    @storage_faults()
    def append(self, key: str, offset: int, chunk: bytes) -> None:
        path = self._path(key)
        if offset and not path.is_file():
            raise StorageBytesMissing(key)
        self._make_folder(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            if os.fstat(descriptor).st_size < offset:
                raise StorageBytesMissing(key)
            file.seek(offset)
            file.write(chunk)
            file.truncate()

    @storage_faults()
    def sync(self, key: str) -> None:
        path = self._path(key)
        with _missing_as(key), path.open("rb+") as file:
            os.fsync(file.fileno())
        self._sync_folders(path.parent)

    @storage_faults()
    def check(self) -> None:
        disks.probe(self._temporary_folder())

    @storage_faults()
    def remove_leftovers(self, seconds: float) -> None:
        folder = self.root / TEMPORARY
        for path in folder.iterdir() if folder.is_dir() else ():
            # Its writer may just have finished.
            with suppress(FileNotFoundError):
                # A rename changes this time, but not the time of modification.
                if time.time() - path.lstat().st_ctime < seconds:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _put(self, key: str, source: BinaryIO) -> None:
        target = self._path(key)
        self._make_folder(target.parent)
        temporary = self._temporary()
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                _flush(file)
            self._publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path, target: Path) -> None:
        temporary.rename(target)
        self._sync_folders(target.parent)

    def _sync_folders(self, folder: Path) -> None:
        # A new folder is durable only once its parent is.
        while True:
            _sync_folder(folder)
            if folder == self.root:
                return
            folder = folder.parent

    def _temporary(self) -> Path:
        return self._temporary_folder() / secrets.token_hex(8)

    def _temporary_folder(self) -> Path:
        folder = self.root / TEMPORARY
        self._make_folder(folder)
        return folder

    def _make_folder(self, folder: Path) -> None:
        """Make a folder in the root, but not the root: without it the storage is away."""
        self.root.stat()
        make_private_folder(folder)

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if (
            not parts
            or parts[0] == TEMPORARY
            or key.startswith("/")
            or "\0" in key
            or any(part in {"..", "."} for part in key.split("/"))
        ):
            raise ValueError(f"{key!r} is not a storage key")
        return self.root.joinpath(*parts)


def open_storage(settings: Settings) -> Storage:
    """The storage that the settings name."""
    return FolderStorage(settings.storage_root)


@contextmanager
def _missing_as(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as missing:
        raise StorageKeyMissing(key) from missing


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
