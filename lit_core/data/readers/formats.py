"""Choosing the reader of an uploaded file, by its first bytes and never by its name."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace

from lit_core.data.errors import DatasetError, damage_is_an_error
from lit_core.data.readers.archives import walk
from lit_core.data.readers.arrays import is_npz, read_npz, read_safetensors
from lit_core.data.readers.celeba import is_celeba, read_celeba
from lit_core.data.readers.images import is_ignored, read_image_folders
from lit_core.data.readers.texts import is_text, read_text_archive, read_text_file
from lit_core.data.readers.webdataset import is_webdataset, read_webdataset
from lit_core.data.source import Raw, Source
from lit_spec import Modality

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
HEAD_BYTES = 512
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
ARCHIVES = "zip, tar, tar.gz, tar.bz2, tar.xz"


@dataclass(frozen=True)
class Format:
    name: str
    matches: Callable[[bytes, Source], bool]
    """Decides from the file's first 512 bytes; may read more."""
    read: Callable[[Source], Raw]
    modality: Modality | None = None
    """The modality that the teacher must have; None: images or texts."""
    has_columns: bool = False
    """Whether it has columns, which the request may name."""

    def takes(self, head: bytes, source: Source) -> bool:
        return self.modality in (None, source.interface.modality) and self.matches(head, source)


def _is_npz(head: bytes, source: Source) -> bool:
    return _is_zip(head) and is_npz(source)


def _is_parquet(head: bytes, source: Source) -> bool:
    return head.startswith(b"PAR1") or (_is_archive(head, source) and _first_file(source).endswith(".parquet"))


def _first_file(source: Source) -> str:
    """The lower-case name of the first file in an archive, ignoring files that any archive may have."""
    limits = replace(source.limits, member_bytes=source.limits.total_bytes)
    names = (member.name.lower() for member in walk(source.path, limits) if not member.is_folder)
    return next((name for name in names if not is_ignored(name)), "")


def _read_parquet(source: Source) -> Raw:
    from lit_core.data.readers.parquet import read_parquet  # imported here because pyarrow is slow to import

    return read_parquet(source)


def _is_safetensors(head: bytes, source: Source) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < source.path.stat().st_size


def _is_archive(head: bytes, _: Source) -> bool:
    return _is_zip(head) or head.startswith(COMPRESSED) or _is_tar(head)


def _is_celeba(head: bytes, source: Source) -> bool:
    return _is_archive(head, source) and is_celeba(source)


def _is_webdataset(head: bytes, source: Source) -> bool:
    return _is_archive(head, source) and is_webdataset(source)


def _is_zip(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _is_table(head: bytes, _: Source) -> bool:
    return is_text(head)


FORMATS = [
    Format("npz", _is_npz, read_npz),
    Format("Parquet, alone or several in an archive", _is_parquet, _read_parquet, has_columns=True),
    Format(f"an archive with images and list_attr_celeba.txt ({ARCHIVES})", _is_celeba, read_celeba, Modality.IMAGE),
    Format(
        f"WebDataset, images KEY.jpg with labels KEY.cls ({ARCHIVES})", _is_webdataset, read_webdataset, Modality.IMAGE
    ),
    Format(f"an archive of image folders ({ARCHIVES})", _is_archive, read_image_folders, Modality.IMAGE),
    Format(
        f"an archive of CSV, TSV or JSON lines files ({ARCHIVES})",
        _is_archive,
        read_text_archive,
        Modality.TEXT,
        has_columns=True,
    ),
    Format("safetensors", _is_safetensors, read_safetensors),
    Format("CSV, TSV or JSON lines", _is_table, read_text_file, Modality.TEXT, has_columns=True),
]


def read_upload(source: Source) -> Raw:
    """Raises DatasetError for everything that is wrong with the data."""
    with source.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    with damage_is_an_error("the file", field="dataset.upload"):
        if _is_zip(head) and not zipfile.is_zipfile(source.path):
            raise DatasetError("the zip file is damaged or cut off: upload it again", field="dataset.upload")
        known = next((known for known in FORMATS if known.takes(head, source)), None)
        if known is None:
            raise _unreadable(head, source)
        if source.request.columns is not None and not known.has_columns:
            raise DatasetError(
                f"the file is {known.name}, which has no columns: leave dataset.columns out", field="dataset.columns"
            )
    with damage_is_an_error(f"the file, which is {known.name},", field="dataset.upload"):
        return known.read(source)


def _unreadable(head: bytes, source: Source) -> DatasetError:
    modality = source.interface.modality
    wanted = ", ".join(known.name for known in FORMATS if known.modality in (None, modality))
    other = next((known.name for known in FORMATS if known.matches(head, source)), "of no known format")
    if modality == Modality.TEXT and head.startswith(UTF_16):
        return DatasetError("the file is UTF-16: save it as UTF-8", field="dataset.upload")
    if modality == Modality.TEXT and is_text(head.replace(b"\0", b"")):
        return DatasetError("the file is text, but has NUL characters: take them out", field="dataset.upload")
    return DatasetError(
        f"the file is {other}, but the teacher takes {modality}s: give {wanted}", field="dataset.upload"
    )
