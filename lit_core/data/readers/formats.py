"""Choosing the reader of an uploaded file, by its first bytes and never by its name."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lit_core.data.errors import DatasetError, damage_is_an_error
from lit_core.data.readers.archives import walk
from lit_core.data.readers.arrays import is_npz, read_npz, read_safetensors
from lit_core.data.readers.celeba import is_celeba, read_celeba
from lit_core.data.readers.images import is_ignored, is_image, read_image_folders
from lit_core.data.readers.texts import is_text, may_be_table, read_text_archive, read_text_file
from lit_core.data.readers.webdataset import is_webdataset, read_webdataset
from lit_core.data.source import Raw, Source
from lit_spec import Modality

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
HEAD_BYTES = 512
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
FIELD = "dataset.upload"
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

    @property
    def plain_name(self) -> str:
        """Without how it may be packed."""
        return self.name.partition(" (")[0]


def _is_npz(head: bytes, source: Source) -> bool:
    return _is_zip(head) and is_npz(source)


def _is_parquet(head: bytes, source: Source) -> bool:
    return head.startswith(b"PAR1") or (_is_archive(head, source) and _first_file(source).endswith(".parquet"))


def _first_file(source: Source) -> str:
    """The lower-case name of the first file in an archive, ignoring files that any archive may have."""
    limits = replace(source.limits, member_bytes=source.limits.total_bytes)
    names = (member.name.lower() for member in walk(source.path, limits) if not member.is_folder)
    return next((name for name in names if not is_ignored(name)), "")


def _has_images(source: Source) -> bool:
    limits = replace(source.limits, member_bytes=source.limits.total_bytes)
    return any(is_image(member.name) for member in walk(source.path, limits) if not is_ignored(member.name))


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


PARQUET = Format("Parquet, alone or several in an archive", _is_parquet, _read_parquet, has_columns=True)
IMAGE_FOLDERS = Format(f"an archive of image folders ({ARCHIVES})", _is_archive, read_image_folders, Modality.IMAGE)
TABLES = Format(
    f"an archive of CSV, TSV or JSON lines files ({ARCHIVES})",
    _is_archive,
    read_text_archive,
    Modality.TEXT,
    has_columns=True,
)
FORMATS = [
    Format("npz", _is_npz, read_npz),
    PARQUET,
    Format(f"an archive with images and list_attr_celeba.txt ({ARCHIVES})", _is_celeba, read_celeba, Modality.IMAGE),
    Format(
        f"WebDataset, images KEY.jpg with labels KEY.cls ({ARCHIVES})", _is_webdataset, read_webdataset, Modality.IMAGE
    ),
    IMAGE_FOLDERS,
    TABLES,
    Format("safetensors", _is_safetensors, read_safetensors),
    Format("CSV, TSV or JSON lines", _is_table, read_text_file, Modality.TEXT, has_columns=True),
]


def read_upload(source: Source) -> Raw:
    """Raises DatasetError for everything that is wrong with the data."""
    return read_as(format_of(source), source)


def format_of(source: Source) -> Format:
    """The first format that matches and has what the teacher takes. Raises DatasetError."""
    modality = source.interface.modality
    head = _head(source)
    known = _first_match(head, source, [known for known in FORMATS if known.modality in (None, modality)])
    if known is not None:
        if source.request.columns is not None and not known.has_columns and source.trains:
            raise DatasetError(
                f"the file is {known.name}, which has no columns: leave dataset.columns out", field="dataset.columns"
            )
        return known
    other = _first_match(head, source, FORMATS)
    found = "of no known format" if other is None else other.name
    wanted = ", ".join(known.name for known in FORMATS if known.modality in (None, modality))
    broken = _broken_text(head) if modality == Modality.TEXT else None
    raise broken or DatasetError(f"the file is {found}, but the teacher takes {modality}s: give {wanted}", field=FIELD)


def recognise(source: Source) -> tuple[Format, list[Modality]]:
    """The format and what the samples may be, for whatever teacher; of arrays the modality is a guess. Raises
    DatasetError.
    """
    head = _head(source)
    known = _first_match(head, source, FORMATS)
    if known is None:
        wanted = ", ".join(known.name for known in FORMATS)
        raise _broken_text(head) or DatasetError(f"the file is of no known format: give {wanted}", field=FIELD)
    if known is PARQUET:
        from lit_core.data.readers.parquet import modalities_of

        with damage_is_an_error("the Parquet file", field=FIELD):
            return known, modalities_of(source)
    if known is IMAGE_FOLDERS and may_be_table(_first_file(source)) and not _has_images(source):
        return TABLES, [Modality.TEXT]
    return known, [known.modality or Modality.IMAGE]


def read_as(known: Format, source: Source) -> Raw:
    """Raises DatasetError."""
    with damage_is_an_error(f"the file, which is {known.name},", field=FIELD):
        return known.read(source)


def _head(source: Source) -> bytes:
    with source.path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _first_match(head: bytes, source: Source, formats: Sequence[Format]) -> Format | None:
    """Raises DatasetError."""
    with damage_is_an_error("the file", field=FIELD):
        if _is_zip(head) and not zipfile.is_zipfile(source.path):
            raise DatasetError("the zip file is damaged or cut off: upload it again", field=FIELD)
        return next((known for known in formats if known.matches(head, source)), None)


def _broken_text(head: bytes) -> DatasetError | None:
    """For a table in an encoding that isn't read."""
    if head.startswith(UTF_16):
        return DatasetError("the file is UTF-16: save it as UTF-8", field=FIELD)
    if b"\0" in head and is_text(head.replace(b"\0", b"")):
        return DatasetError("the file is text, but has NUL characters: take them out", field=FIELD)
    return None
