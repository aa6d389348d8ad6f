"""Untrusted Parquet files: one, or an archive of several. They are read in batches, never as a whole."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from lit_core.data.errors import DatasetError, damage_is_an_error, shown
from lit_core.data.readers.archives import Member, walk
from lit_core.data.readers.images import is_ignored
from lit_core.data.source import MIB, Limits, Source
from lit_core.data.splits import NAMES

SUFFIX = ".parquet"
MAGIC = b"PAR1"


class Meter:
    """Counts the bytes of all batches in memory, over all files; raises DatasetError when a limit is exceeded."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._compressed = path.stat().st_size
        self._limits = limits
        self._bytes = 0

    def grow(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.total_bytes:
            raise DatasetError(f"the Parquet data unpacks to more than {self._limits.total_bytes} bytes")
        if self._bytes > max(self._limits.ratio_from_bytes, self._limits.ratio * self._compressed):
            raise DatasetError(
                f"the Parquet data unpacks to more than {self._limits.ratio} times its size, as decompression bombs do"
            )


@dataclass(frozen=True)
class ParquetTable:
    """One Parquet file. It is open only while it is read."""

    path: Path
    name: str
    """Its name in the archive; empty for a single file."""
    meter: Meter

    @cached_property
    def schema(self) -> pa.Schema:
        return self._opened[0]

    @property
    def rows(self) -> int:
        """As the file claims; `batches` raises if the number of rows is another."""
        return self._opened[1]

    @property
    def split(self) -> int | None:
        """The split's code from the file's name, such as train-00000-of-00002.parquet, or from its folder's."""
        path = PurePosixPath(self.name.lower())
        beginning = re.match("[a-z]*", path.name)
        return NAMES.get(beginning[0] if beginning else "", NAMES.get(path.parent.name))

    def place(self, column: str, row: int) -> str:
        """A cell's place, for messages."""
        return f"{self._prefix}{shown(column)}[{row}]"

    def described(self) -> str:
        """The columns, for messages."""
        columns = [f"{shown(field.name)} ({shown(str(field.type))})" for field in self.schema]
        listed = ", ".join(columns[:20]) + (", …" if len(columns) > 20 else "")
        return f"{self._prefix}the columns are {listed or 'none'}"

    def batches(self, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """Up to `size` rows at a time; of a struct's field as "column.field". Raises DatasetError."""
        rows = 0
        with self._damage_is_an_error(), self._open() as file:
            for batch in file.iter_batches(size, columns=list(columns), use_threads=False):
                batch.validate(full=True)
                rows += batch.num_rows
                self.meter.grow(batch.nbytes)
                yield batch
        if rows != self.rows:
            raise DatasetError(f"{self._prefix}the file says that it has {self.rows} rows, but has {rows}")

    @property
    def _prefix(self) -> str:
        return f"{shown(self.name)}: " if self.name else ""

    @cached_property
    def _opened(self) -> tuple[pa.Schema, int]:
        with self._damage_is_an_error(), self._open() as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            str(schema)  # so that names can be shown in messages later
        if len(set(schema.names)) != len(schema.names):
            raise DatasetError(f"{self._prefix}a column occurs twice: {', '.join(map(shown, schema.names[:20]))}")
        return schema, rows

    def _open(self) -> pq.ParquetFile:
        # Without pre_buffer and with a buffer, pages are read when needed, instead of whole row groups.
        # A file's own claims about Arrow's extension types are ignored.
        return pq.ParquetFile(
            self.path,
            pre_buffer=False,
            buffer_size=MIB,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        )

    @contextmanager
    def _damage_is_an_error(self) -> Iterator[None]:
        """Turns what Arrow raises for a damaged file into a DatasetError."""
        what, member = f"{self._prefix}the Parquet file", shown(self.name) or None
        with damage_is_an_error(what, "it is damaged, encrypted or of no known kind; write it again", member=member):
            try:
                yield
            except pa.ArrowMemoryError as failure:
                # A damaged file asks for any amount.
                raise DatasetError(f"{what} needs too much memory: write it again", member=member) from failure


@contextmanager
def tables_of(source: Source) -> Iterator[list[ParquetTable]]:
    """The uploaded file, or the files of an archive in the order of splits and names. Raises DatasetError."""
    meter = Meter(source.path, source.limits)
    with source.path.open("rb") as file:
        alone = file.read(len(MAGIC)) == MAGIC
    if alone:
        yield [ParquetTable(source.path, "", meter)]
        return
    with tempfile.TemporaryDirectory() as folder:
        tables = [ParquetTable(path, name, meter) for path, name in _unpacked(source, Path(folder))]
        yield sorted(tables, key=lambda table: (table.split or 0, table.name))


def _unpacked(source: Source, folder: Path) -> Iterator[tuple[Path, str]]:
    """Arrow reads a file from its end, so each file is copied out of the archive, under a name of our choice."""
    seen = set()
    # A Parquet file is as large as the data set, so the limit per member does not apply.
    for member in walk(source.path, replace(source.limits, member_bytes=source.limits.total_bytes)):
        if member.is_folder or is_ignored(member.name):
            continue
        name = shown(member.name)
        if not member.name.lower().endswith(SUFFIX):
            raise DatasetError(
                f"{name} is no Parquet file: only {SUFFIX} may lie in the archive (a README or LICENSE is ignored)",
                member=name,
            )
        if member.name in seen:
            raise DatasetError(f"{name} occurs twice in the archive", member=name)
        seen.add(member.name)
        path = folder / f"{len(seen)}{SUFFIX}"
        _copy(member, path)
        yield path, member.name


def _copy(member: Member, path: Path) -> None:
    # Only reading is inside: a full disk does not mean that the archive is damaged.
    with path.open("wb") as target:
        for piece in _pieces(member):
            target.write(piece)
    if path.stat().st_size != member.size:
        raise DatasetError(f"{shown(member.name)} is cut off", member=shown(member.name))


def _pieces(member: Member) -> Iterator[bytes]:
    with damage_is_an_error(shown(member.name), member=shown(member.name)), member.open() as file:
        while piece := file.read(MIB):
            yield piece
