"""Which reader an uploaded file belongs to, told by its first bytes and never by its name."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from lit_core.data.arrays import is_npz, read_npz, read_safetensors
from lit_core.data.celeba import is_celeba, read_celeba
from lit_core.data.errors import DatasetError
from lit_core.data.images import read_image_folders
from lit_core.data.source import Raw, Source

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
HEAD_BYTES = 512


@dataclass(frozen=True)
class Format:
    name: str
    matches: Callable[[bytes, Source], bool]
    """From the file's first 512 bytes; may look further."""
    read: Callable[[Source], Raw]


def _is_npz(head: bytes, source: Source) -> bool:
    return _is_zip(head) and is_npz(source)


def _is_safetensors(head: bytes, source: Source) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < source.path.stat().st_size


def _is_archive(head: bytes, _: Source) -> bool:
    return _is_zip(head) or head.startswith(COMPRESSED) or _is_tar(head)


def _is_celeba(head: bytes, source: Source) -> bool:
    return _is_archive(head, source) and is_celeba(source)


def _is_zip(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


FORMATS = [
    Format("npz", _is_npz, read_npz),
    Format("an archive with images and list_attr_celeba.txt", _is_celeba, read_celeba),
    Format("an archive of image folders (zip, tar, tar.gz, tar.bz2, tar.xz)", _is_archive, read_image_folders),
    Format("safetensors", _is_safetensors, read_safetensors),
]


def read_upload(source: Source) -> Raw:
    """Raises DatasetError."""
    with source.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if _is_zip(head) and not zipfile.is_zipfile(source.path):
        raise DatasetError("the zip file is damaged or cut off: upload it again", field="dataset.upload")
    for known in FORMATS:
        if known.matches(head, source):
            return known.read(source)
    raise DatasetError(
        f"the file is of no known format: give {', '.join(known.name for known in FORMATS)}", field="dataset.upload"
    )
