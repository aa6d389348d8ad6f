"""A folder as storage, which API and workers on several machines may share, for example by NFS."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jobs import disks
from jobs.private_files import PRIVATE_FILE, close_to_others, make_private_folder
from jobs.storage import layout
from jobs.storage.faults import storage_faults
from jobs.storage.storage import (
    DirectParts,
    FinishedPieces,
    StorageBytesMissing,
    StorageKeyMissing,
    checked_prefix,
    key_parts,
)

TEMPORARY = ".tmp"
"""The one folder for files that are being written or removed. Leftovers of killed processes are found there."""
OWN_NAMES = {TEMPORARY, *layout.TOP_FOLDERS, "lost+found"}
"""What may lie in the root: what we store, and what a disk of its own has there."""
PIECE_BYTES = 8 << 20
BLOCK_BYTES = 1 << 20


class FolderStorage:
    """A folder. The pieces of an unfinished file are written to the file itself, so that nothing is copied later."""

    piece_bytes = PIECE_BYTES
    fences_pieces = False
    direct: DirectParts | None = None

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
    def open(self, key: str, *, grows: bool = False) -> BinaryIO:  # noqa: ARG002 - an open file stays as it is
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
        folder = self._path(checked_prefix(prefix))
        if folder.exists():
            # Renamed first, so that a reader sees all of it or nothing.
            doomed = self._temporary()
            folder.rename(doomed)
            shutil.rmtree(doomed)

    def download_url(self, key: str) -> str | None:  # noqa: ARG002 - of the interface
        return None

    @storage_faults()
    def write_piece(self, key: str, offset: int, piece: bytes, writer: int) -> None:  # noqa: ARG002 - of the interface
        self._write(key, offset, piece)

    @storage_faults()
    def cut(self, key: str, offset: int) -> None:
        self._write(key, offset, b"")

    @storage_faults()
    def sync(self, key: str) -> None:
        path = self._path(key)
        with _missing_as(key), path.open("rb+") as file:
            os.fsync(file.fileno())

    def pieces_size(self, key: str) -> int:
        try:
            return self.size(key)
        except StorageKeyMissing:
            return 0

    @contextmanager
    def finish(self, key: str, size: int, sha256: str | None = None) -> Iterator[FinishedPieces]:
        self.sync(key)
        if self.size(key) != size:
            raise StorageBytesMissing(key)
        yield _WrittenInPlace(self, key, self._sha256(key) if sha256 is None else sha256)

    @storage_faults()
    def _sha256(self, key: str) -> str:
        found = hashlib.sha256()
        with self.open(key) as file:
            while block := file.read(BLOCK_BYTES):
                found.update(block)
        return found.hexdigest()

    @storage_faults()
    def check(self) -> None:
        disks.probe(self._temporary_folder())

    @storage_faults()
    def remove_leftovers(self, seconds: float, unfinished: Callable[[], Mapping[str, int]]) -> None:  # noqa: ARG002 - pieces are no files here
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

    def _write(self, key: str, offset: int, piece: bytes) -> None:
        """Write at `offset`, and cut off what is beyond."""
        path = self._path(key)
        if offset and not path.is_file():
            raise StorageBytesMissing(key)
        self._make_folder(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            if os.fstat(descriptor).st_size < offset:
                raise StorageBytesMissing(key)
            file.seek(offset)
            file.write(piece)
            file.truncate()
        if not offset:
            # Once: for each folder the disk has to write all that waits.
            self._sync_folders(path.parent)

    def _put(self, key: str, source: BinaryIO) -> None:
        target = self._path(key)
        self._make_folder(target.parent)
        temporary = self._temporary()
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "wb") as file:
                shutil.copyfileobj(source, file, BLOCK_BYTES)
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
        return self.root.joinpath(*key_parts(key))


@dataclass(frozen=True)
class _WrittenInPlace:
    storage: FolderStorage
    key: str
    sha256: str

    def open(self) -> BinaryIO:
        return self.storage.open(self.key)

    def publish(self) -> None:
        """Nothing: the ledger tells readers that the file is complete."""


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
