"""The folder on this machine's disk in which a worker process keeps its files while it works on them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.private_files import PRIVATE_FILE, PRIVATE_FOLDER, close_to_others, make_private_folder

LOCK_NAME = "lock"


class WorkFolder:
    """This process's folder under `root`, locked while the process lives. An unlocked one is a leftover."""

    def __init__(self, root: Path, name: str) -> None:
        make_private_folder(root)
        self.path = root / name
        with _locked(root / LOCK_NAME):
            close_to_others(root, lambda path: path.name == LOCK_NAME or _is_work_folder(path))
            remove_leftovers(root)
            self.path.mkdir(mode=PRIVATE_FOLDER)
            self._lock = _open_lock(self.path / LOCK_NAME)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    @contextmanager
    def temporary_folder(self, name: str) -> Iterator[Path]:
        """An empty folder for one job or inspection, removed afterwards."""
        path = self.path / name
        path.mkdir(mode=PRIVATE_FOLDER)
        try:
            yield path.resolve()
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        _remove(self.path)
        os.close(self._lock)


def remove_leftovers(root: Path) -> list[str]:
    """Remove the work folders under `root` whose process is dead, and return their names."""
    removed = []
    for folder in sorted(filter(_is_work_folder, root.iterdir())):
        lock = _open_lock(folder / LOCK_NAME)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove(folder)
            removed.append(folder.name)
        finally:
            os.close(lock)
    return removed


def _is_work_folder(path: Path) -> bool:
    """Whether a process made this folder for its work. Without a lock it is somebody else's."""
    return not path.is_symlink() and (path / LOCK_NAME).is_file()


def _remove(folder: Path) -> None:
    """Remove a work folder, its lock last: what is left after a kill is still known as a work folder."""
    with suppress(OSError):
        for path in folder.iterdir():
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
