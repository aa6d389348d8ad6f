"""Reading checkpoint files: safetensors, and what torch.save writes."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import safetensors
import torch
from pydantic_core import from_json
from safetensors.torch import load_file

from lit_core.networks.checkpoints.pickles import Storage, StorageType, Unpickler
from lit_core.zip_directory import directory_bytes
from lit_spec.networks.architecture import TeacherFormat
from lit_spec.networks.teacher_files import (
    ARCHITECTURE_KEY,
    DIRECTORY_BYTES,
    HEADER_BYTES,
    MEMBERS,
    PICKLE_BYTES,
    too_long_header,
    too_many_tensors,
)
from lit_spec.trainer.folder import CONFIG_FILE, WEIGHTS_FILE

SAVE = "save model.state_dict() instead"
ZIP = b"PK\x03\x04"
MAGIC_NUMBER, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""Of torch's old format: five pickles and then the storages."""
MOST_SHOWN, PIECE_BYTES = 300, 1 << 20
CONFIG_BYTES = 4 << 20
"""Of a student's configuration, which also holds the names of its classes."""
ENCRYPTED = 1
"""Of a zip member's flags."""


class TeacherError(Exception):
    """The file is not a readable teacher. The message says what to do."""

    def __init__(self, message: str, field: str = "teacher") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Checkpoint:
    """All that a file holds."""

    format: TeacherFormat
    content: Any
    told: Any = None
    """What the file of a student says of its architecture: JSON that nobody has checked. None: it says nothing."""
    steps: Sequence[str] = ()
    """What was done to read it."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises TeacherError."""
    if _format(path) == TeacherFormat.SAFETENSORS:
        return _read_safetensors(path)
    if _is_zip(path) and (weights := _weights_in_bundle(path)) is not None:
        return _read_bundle(path, weights)
    return Checkpoint(TeacherFormat.PT, _load_pt(path))


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == ZIP


def _format(path: Path) -> TeacherFormat:
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:9] == b"{":
        return TeacherFormat.SAFETENSORS
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return TeacherFormat.PT
    raise TeacherError("the file is neither safetensors nor a .pt file: save model.state_dict() as one of them")


def _read_safetensors(path: Path) -> Checkpoint:
    content = _load_safetensors(path)
    with safetensors.safe_open(path, "pt") as file:
        told = (file.metadata() or {}).get(ARCHITECTURE_KEY)
    return Checkpoint(TeacherFormat.SAFETENSORS, content, None if told is None else _json(told, ARCHITECTURE_KEY))


def _json(text: str | bytes, what: str) -> Any:
    try:
        return from_json(text)
    except ValueError as failure:
        raise TeacherError(f"{what} of the student is not JSON: give the student as it was downloaded") from failure


def _weights_in_bundle(path: Path) -> str | None:
    """The name of the member with a student's weights, or None for an archive that has none, such as a .pt file."""
    try:
        members = _members(path)
    except (zipfile.BadZipFile, OSError, ValueError):
        return None  # refused by whoever reads it as a .pt file
    names = [member.filename for member in members if PurePosixPath(member.filename).name == WEIGHTS_FILE]
    # Others are in folders, as that of the Hugging Face export is.
    return min(names, key=lambda name: name.count("/"), default=None)


def _members(path: Path) -> list[zipfile.ZipInfo]:
    if (size := directory_bytes(path)) > DIRECTORY_BYTES:
        raise TeacherError(f"the archive's directory has {size} bytes, but at most {DIRECTORY_BYTES} are read: {SAVE}")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if len(members) > MEMBERS:
        raise TeacherError(too_many_tensors(len(members)))
    return members


def _read_bundle(path: Path, weights: str) -> Checkpoint:
    """A student's weights in an archive, and what the configuration beside them says where the weights don't."""
    folder = weights.removesuffix(WEIGHTS_FILE)
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as temporary:
            extracted = Path(temporary, WEIGHTS_FILE)
            with _stored(archive, weights) as source, extracted.open("wb") as target:
                shutil.copyfileobj(source, target, PIECE_BYTES)
            found = _read_safetensors(extracted)
            told = found.told
            if told is None and f"{folder}{CONFIG_FILE}" in archive.namelist():
                told = _told_by(archive, f"{folder}{CONFIG_FILE}")
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as failure:
        raise TeacherError(f"the archive with {weights} cannot be read (is it whole?): {failure}") from failure
    return replace(found, told=told, steps=[f"{weights} taken from the archive"])


def _told_by(archive: zipfile.ZipFile, name: str) -> Any:
    with _stored(archive, name) as file:
        content = file.read(CONFIG_BYTES + 1)
    if len(content) > CONFIG_BYTES:
        raise TeacherError(f"{name} has more than {CONFIG_BYTES} bytes: give the student as it was downloaded")
    config = _json(content, name)
    told = config.get("architecture") if isinstance(config, dict) else None
    # In timm's format it is a name.
    return told if isinstance(told, dict) else None


def _stored(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A member that is no longer than the archive, because it is not compressed."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
        raise TeacherError(
            f"{name} is compressed or encrypted in the archive: unpack it, and give the folder or the file"
        )
    return archive.open(member)


def _load_safetensors(path: Path) -> Any:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > HEADER_BYTES:
        raise TeacherError(too_long_header(header_bytes))
    try:
        return load_file(path)
    except (safetensors.SafetensorError, ValueError) as failure:
        raise TeacherError(f"the safetensors file cannot be read: {failure}") from failure


def _load_pt(path: Path) -> Any:
    try:
        return _load_zip(path) if _is_zip(path) else _load_old(path)
    except TeacherError:
        raise
    except Exception as failure:
        # pickle and zipfile raise anything for a damaged file, also MemoryError for a length that it doesn't have.
        reason = str(failure).splitlines()[0][:MOST_SHOWN] if str(failure) else type(failure).__name__
        raise TeacherError(f"the .pt file cannot be read (is it whole?): {reason}") from failure


def _load_zip(path: Path) -> Any:
    if (size := directory_bytes(path)) > DIRECTORY_BYTES:
        raise TeacherError(f"the .pt file's directory has {size} bytes, but at most {DIRECTORY_BYTES} are read: {SAVE}")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(names) > MEMBERS:
            raise TeacherError(too_many_tensors(len(names)))
        if any("/code/" in name or name.endswith("constants.pkl") for name in names):
            raise TeacherError(f"the file is TorchScript, which is not accepted: {SAVE}")
        found = [member for member in members if member.filename.endswith("data.pkl")]
        if not found:
            raise TeacherError(f"the zip file is no .pt file of torch.save: {SAVE}")
        if len(found) > 1 or len(set(names)) < len(names):
            raise TeacherError(f"the .pt file has a member twice: {SAVE}")
        if found[0].file_size > PICKLE_BYTES:
            raise _too_long_pickle()
        folder = found[0].filename.removesuffix("data.pkl")
        by_name = {member.filename: member for member in members}
        order = by_name.get(f"{folder}byteorder")
        if order is not None and order.file_size < MOST_SHOWN and archive.read(order).strip() == b"big":
            raise TeacherError(f"the .pt file has the bytes of its numbers in the other order: {SAVE}")
        storages: dict[str, torch.UntypedStorage] = {}

        def storage_of(key: str, kind: StorageType, size: int) -> Storage:
            if key not in storages:
                member = by_name[f"{folder}data/{key}"]
                if member.compress_type != zipfile.ZIP_STORED or member.file_size < size:
                    raise ValueError(f"{member.filename} is compressed, or shorter than its storage")
                with archive.open(member) as content:
                    storages[key] = _filled(_empty(member.file_size), content)
            return Storage(storages[key], kind.dtype)

        with archive.open(found[0]) as file:
            return Unpickler(file, storage_of).load()


def _load_old(path: Path) -> Any:
    left = path.stat().st_size
    storages: dict[str, torch.UntypedStorage] = {}

    def storage_of(key: str, kind: StorageType, size: int) -> Storage:
        nonlocal left
        if key not in storages:
            left -= size
            if left < 0:
                raise ValueError("its storages are longer than the file")
            storages[key] = _empty(size)
        if storages[key].nbytes() < size:
            raise ValueError(f"the storage {key} has two lengths")
        elements[key] = kind
        return Storage(storages[key], kind.dtype)

    elements: dict[str, StorageType] = {}
    with path.open("rb") as file:
        pickles = _Limited(file)
        if [_unpickled(pickles, storage_of) for _ in range(2)] != [MAGIC_NUMBER, PROTOCOL]:
            raise TeacherError("the file is neither safetensors nor a .pt file: save model.state_dict() as one of them")
        system, loaded, keys = (_unpickled(pickles, storage_of) for _ in range(3))
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise TeacherError(f"the .pt file has the bytes of its numbers in the other order: {SAVE}")
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
            raise ValueError("it does not name each of its storages once")
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            if elements[key].bytes_of(count) != storages[key].nbytes():
                raise ValueError(f"the storage {key} has two lengths")
            _filled(storages[key], file)
    return loaded


def _unpickled(file: Any, storage_of: Callable[[str, StorageType, int], Storage]) -> Any:
    return Unpickler(file, storage_of).load()


def _empty(size: int) -> torch.UntypedStorage:
    return torch.empty(size, dtype=torch.uint8).untyped_storage()


def _filled(storage: torch.UntypedStorage, file: IO[bytes]) -> torch.UntypedStorage:
    """The storage with the next bytes of the file. Raises ValueError if there are not enough."""
    into = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    done = 0
    while done < len(into):
        piece = file.read(min(PIECE_BYTES, len(into) - done))
        if not piece:
            raise ValueError("it ends within a storage")
        into[done : done + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        done += len(piece)
    return storage


class _Limited:
    """The pickles of a file, of which only so many bytes are read. Raises TeacherError."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, PICKLE_BYTES

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise _too_long_pickle()
        return self._counted(self.file.read(size))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(self.left + 1))

    def _counted(self, content: bytes) -> bytes:
        self.left -= len(content)
        if self.left < 0:
            raise _too_long_pickle()
        return content


def _too_long_pickle() -> TeacherError:
    return TeacherError(f"the .pt file has more than {PICKLE_BYTES} bytes beside its weights: {SAVE}")
