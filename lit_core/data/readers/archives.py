"""Untrusted zip and tar archives. They are walked member by member and never extracted.

A member's name is only compared and shown; no file of that name is created.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from lit_core.data.errors import DatasetError, damage_is_an_error, shown
from lit_core.data.source import Limits
from lit_core.data.store.encoded import Extent
from lit_core.zip_directory import directory_bytes

TAR_EXTENSION_BYTES = 1 << 20
TAR_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
ENCRYPTED, UTF_8 = 0x1, 0x800
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
"""Of a member of a zip archive; its name and an extra field follow (APPNOTE.TXT, 4.3.7)."""
DEFLATE_BYTES = 1024
"""By which DEFLATE may enlarge a small file, and more."""
LOCAL_SIGNATURE = b"PK\x03\x04"


@dataclass(frozen=True)
class Member:
    """A file or folder in an archive. `open` works until the walk continues with the next member."""

    name: str
    """Without `./`, doubled or trailing slashes."""
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]
    extent: Callable[[], Extent | None] = lambda: None
    """Where the content lies in the archive's file, so that other processes can read it; None: it has to be read by
    the walk."""

    def read(self) -> bytes:
        """The whole content. Raises DatasetError."""
        with damage_is_an_error(shown(self.name), member=shown(self.name)), self.open() as file:
            content = file.read(self.size + 1)
        if len(content) != self.size:
            raise DatasetError(f"{shown(self.name)} is cut off", member=shown(self.name))
        return content


def walk(path: Path, limits: Limits) -> Iterator[Member]:
    """The members of a zip or (compressed) tar archive in the archive's order. Raises DatasetError."""
    return _walk_zip(path, limits) if zipfile.is_zipfile(path) else _walk_tar(path, limits)


class _Meter:
    """Counts members and bytes as they are read and raises DatasetError when a limit is exceeded."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.compressed = path.stat().st_size
        self.limits = limits
        self.members = 0
        self.bytes = 0

    def member(self, name: str, size: int) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise DatasetError(f"the archive has more than {self.limits.members} members")
        if size > self.limits.member_bytes:
            raise DatasetError(
                f"{shown(name)} has {size} bytes uncompressed: at most {self.limits.member_bytes} are read",
                member=shown(name),
            )

    def grow(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.limits.total_bytes:
            raise DatasetError(f"the archive unpacks to more than {self.limits.total_bytes} bytes")
        if self.bytes > max(self.limits.ratio_from_bytes, self.limits.ratio * self.compressed):
            raise DatasetError(
                f"the archive unpacks to more than {self.limits.ratio} times its size, as decompression bombs do"
            )


# --- zip -------------------------------------------------------------------------------------------------


def _walk_zip(path: Path, limits: Limits) -> Iterator[Member]:
    meter = _Meter(path, limits)
    _check_directory_size(path, limits)
    with damage_is_an_error("the archive"):
        archive = zipfile.ZipFile(path)
    with archive:
        for info in archive.infolist():
            name = _checked_name(info.filename)
            meter.member(name, info.file_size)
            meter.grow(info.file_size)
            _check_zip_member(info, name)
            if name:
                yield Member(
                    name, info.file_size, info.is_dir(), _zip_opener(archive, info), partial(_zip_extent, path, info)
                )


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _zip_extent(path: Path, info: zipfile.ZipInfo) -> Extent | None:
    """None for whatever is not usual: then zipfile reads it, or says what is wrong."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return None
    # It is read at once, so it must not be larger than what it unpacks to, which has a limit.
    if info.compress_size > info.file_size + info.file_size // 100 + DEFLATE_BYTES:
        return None
    name = info.orig_filename.encode("utf-8" if info.flag_bits & UTF_8 else "cp437")
    with path.open("rb", buffering=0) as file:
        header = os.pread(file.fileno(), LOCAL_HEADER.size + len(name), info.header_offset)
    if len(header) != LOCAL_HEADER.size + len(name):
        return None
    signature, _, flags, *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack_from(header)
    if signature != LOCAL_SIGNATURE or flags & ENCRYPTED or header[LOCAL_HEADER.size :] != name:
        return None
    offset = info.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    return Extent(str(path), offset, info.compress_size, deflated, info.CRC)


def _check_zip_member(info: zipfile.ZipInfo, name: str) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _not_a_file(name)
    if info.flag_bits & ENCRYPTED:
        raise DatasetError(f"{shown(name)} is encrypted: pack the archive without a password", member=shown(name))


def _check_directory_size(path: Path, limits: Limits) -> None:
    """Check before zipfile reads the whole central directory and creates an object for each entry."""
    directory = directory_bytes(path)
    if directory > limits.directory_bytes:
        raise DatasetError(f"the zip's directory has {directory} bytes: at most {limits.directory_bytes} are read")


# --- tar -------------------------------------------------------------------------------------------------


class _CheckedTarInfo(tarfile.TarInfo):
    """Refuses what tarfile would accept: long names and pax records of any size, and broken headers."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _CheckedTarInfo:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as failure:
            if not any(buf):
                raise  # zeros or nothing: the end of the archive
            # In the middle of an archive tarfile takes this for the end, and images would be missing without notice.
            raise DatasetError("the archive is damaged (a broken tar header): pack it again") from failure
        if header.type in TAR_EXTENSIONS and header.size > TAR_EXTENSION_BYTES:
            raise DatasetError(f"the archive has an extended tar header of {header.size} bytes")
        return header


class _MeteredFile:
    def __init__(self, file: BinaryIO, meter: _Meter) -> None:
        self.file = file
        self.meter = meter

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.meter.grow(len(data))
        return data


def _walk_tar(path: Path, limits: Limits) -> Iterator[Member]:
    meter = _Meter(path, limits)
    packed = _packing(path)
    with damage_is_an_error("the archive"), packed(path) as file:
        metered = cast(Any, _MeteredFile(file, meter))
        with tarfile.open(fileobj=metered, mode="r|", tarinfo=_CheckedTarInfo, encoding="utf-8") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all members; a walk does not need them
                name = _checked_name(info.name)
                meter.member(name, info.size)
                if not (info.isreg() or info.isdir()) or info.issparse():
                    raise _not_a_file(name)
                if name:
                    # The file's content, if it is not compressed, follows its header.
                    extent = None if packed is not _plain else Extent(str(path), info.offset_data, info.size)
                    yield Member(name, info.size, info.isdir(), _tar_opener(archive, info), partial(_known, extent))


def _tar_opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opener() -> IO[bytes]:
        file = archive.extractfile(info)
        if file is None:
            raise _not_a_file(info.name)
        return file

    return opener


def _packing(path: Path) -> Callable[[Path], BinaryIO]:
    """What opens the archive."""
    with path.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"\x1f\x8b"):
        return cast(Callable[[Path], BinaryIO], gzip.open)
    if head.startswith(b"BZh"):
        return cast(Callable[[Path], BinaryIO], bz2.open)
    if head.startswith(b"\xfd7zXZ\x00"):
        return cast(Callable[[Path], BinaryIO], lzma.open)
    return _plain


def _plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _known(extent: Extent | None) -> Extent | None:
    return extent


# --- both ------------------------------------------------------------------------------------------------


def _checked_name(name: str) -> str:
    member = shown(name)
    if any("\ud800" <= c <= "\udfff" for c in name):
        raise DatasetError(f"the member's name {member} is not UTF-8: rename it", member=member)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if "\\" in name or name.startswith("/") or ".." in parts or re.match("[A-Za-z]:/", name):
        raise DatasetError(
            f"the member's name {member} is absolute, or has '..' or a backslash: pack the folder with relative names",
            member=member,
        )
    return "/".join(parts)


def _not_a_file(name: str) -> DatasetError:
    return DatasetError(
        f"{shown(name)} is a link, device or sparse file: pack plain files and folders only", member=shown(name)
    )
