"""Folders as uploads: a data set's files packed into one, and the model in the folder of a downloaded student."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lit_client.files import ProgressCallback
from lit_spec.states import UploadKind
from lit_spec.system_files import is_system_file
from lit_spec.trainer.folder import CONFIG_FILE, WEIGHTS_FILE

PIECE_BYTES = 1 << 20


class UnusableFolder(ValueError):
    """The message says what is wrong with the folder."""


@contextmanager
def as_file(path: Path, kind: UploadKind, progress: ProgressCallback | None = None) -> Iterator[Path]:
    """The file to send for a path, which may be a folder: of a data set a tar archive that is removed at the end, of a
    student that was downloaded its model, or a zip archive with its model and configuration. `progress` is told how
    many bytes of a data set are packed, of how many.

    Raises UnusableFolder.
    """
    if not path.is_dir():
        yield path
    elif kind == UploadKind.TEACHER and not (path / CONFIG_FILE).is_file():
        yield model_in(path)
    else:
        with tempfile.TemporaryDirectory(prefix="lit-") as temporary:
            packed = (
                Path(temporary) / f"{path.resolve().name or 'folder'}.{'zip' if kind == UploadKind.TEACHER else 'tar'}"
            )
            if kind == UploadKind.TEACHER:
                pack_student(path, packed)
            else:
                pack(path, packed, progress)
            yield packed


def check_folder(folder: Path, kind: UploadKind) -> None:
    """Whether there is something to send, before anything is packed. Raises UnusableFolder."""
    if kind == UploadKind.TEACHER:
        model_in(folder)
    elif next(files_of(folder), None) is None:
        raise UnusableFolder(f"{folder} has no files: give the folder with the data set")


def model_in(folder: Path) -> Path:
    """Raises UnusableFolder."""
    if not (folder / WEIGHTS_FILE).is_file():
        raise UnusableFolder(f"{folder} is a folder without {WEIGHTS_FILE}: give a checkpoint, or a student's folder")
    return folder / WEIGHTS_FILE


def pack_student(folder: Path, archive: Path) -> None:
    """A student's model and its configuration in a zip archive without compression, in which they can be read.

    The same files make the same bytes. Raises UnusableFolder.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as made:
        for path in (model_in(folder), folder / CONFIG_FILE):
            # Its time is the same for all files.
            member = zipfile.ZipInfo(path.name)
            with path.open("rb") as content, made.open(member, "w", force_zip64=True) as written:
                shutil.copyfileobj(content, written, PIECE_BYTES)


def pack(folder: Path, archive: Path, progress: ProgressCallback | None = None) -> None:
    """The folder's files in a tar archive without compression: images are compressed already.

    The same files make the same bytes, so that the service knows them again. Links to folders are refused. Raises
    UnusableFolder.
    """
    check_folder(folder, UploadKind.DATASET)
    files = sorted(files_of(folder))
    total, done = sum(size for _, _, size in files), 0
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as made:
        for name, path, size in files:
            member = tarfile.TarInfo(name)
            member.size = size
            try:
                with path.open("rb") as content:
                    made.addfile(member, content)
            except (OSError, UnicodeEncodeError) as failure:
                raise UnusableFolder(f"{path} can't be packed: {failure}") from failure
            done += size
            if progress is not None:
                progress(done, total)


def files_of(folder: Path) -> Iterator[tuple[str, Path, int]]:
    """Name in the archive, path and size of each file that may belong to a data set."""
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        for name in folders:
            if Path(parent, name).is_symlink():
                raise UnusableFolder(f"{Path(parent, name)} is a link to a folder: put a copy in its place")
        folders[:] = [name for name in folders if not is_system_file(name)]
        for name in names:
            path = Path(parent, name)
            if not is_system_file(name) and path.is_file():
                yield str(PurePosixPath(path.relative_to(folder))), path, path.stat().st_size


def _unreadable(failure: OSError) -> None:
    raise UnusableFolder(f"{failure.filename} can't be read: {failure.strerror}") from failure
