"""Rows of untrusted CSV and TSV files, read as a stream with a limited size per row."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO

from lit_core.data.errors import DatasetError, damage_is_an_error, shown

ROW_BYTES = 1 << 20
"""Of all lines of a row. The csv module itself limits a column to 131,072 characters."""
BYTE_ORDER_MARK = "\ufeff"
TAB = "\t"


class CSV(csv.excel):
    strict = True


class TSV(csv.excel_tab):
    quoting = csv.QUOTE_NONE


@dataclass(frozen=True)
class Table:
    """A file of rows."""

    name: str
    """The member's name in the archive; empty for a single file."""
    separator: str
    """A tab for TSV, in which quotes have no meaning; a comma for CSV."""
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    def rows(self) -> Iterator[Row]:
        """Rows of at least two columns, all with as many columns as the first one. Empty lines are skipped.

        Raises DatasetError.
        """
        columns = 0
        for row in self._rows():
            columns = columns or len(row.cells)
            if len(row.cells) < 2:
                raise DatasetError(f"{row.place} has one column: give a label and a text", member=row.place)
            if len(row.cells) != columns:
                raise DatasetError(
                    f"{row.place} has {len(row.cells)} columns, but the first row has {columns}: "
                    f"{'take tabs out of texts' if self.separator == TAB else 'put texts with commas into quotes'}",
                    member=row.place,
                )
            yield row

    def _rows(self) -> Iterator[Row]:
        with damage_is_an_error(shown(self.name) or "the file", member=shown(self.name) or None), self.open() as file:
            lines = _Lines(file, self)
            reader = csv.reader(lines, TSV if self.separator == TAB else CSV)
            while True:
                line = reader.line_num + 1
                lines.left = ROW_BYTES
                try:
                    cells = next(reader, None)
                except csv.Error as failure:
                    place = self.place(line)
                    raise DatasetError(
                        f"{place} can't be read ({failure}): put texts with commas, quotes or line breaks into quotes, "
                        "and double the quotes in them",
                        member=place,
                    ) from failure
                if cells is None:
                    return
                if cells:
                    yield Row(self, line, cells)

    def place(self, line: int) -> str:
        """The file's name, if it has one, and the line; for messages."""
        return f"{shown(self.name)} line {line}".lstrip()


@dataclass(frozen=True, slots=True)
class Row:
    table: Table
    line: int
    """The number of its first line, counted from 1."""
    cells: list[str]

    @property
    def place(self) -> str:
        return self.table.place(self.line)


class _Lines:
    """A file's decoded lines, limited to what a row may still have."""

    def __init__(self, file: IO[bytes], table: Table) -> None:
        self.file, self.table = file, table
        self.left = ROW_BYTES
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.file.readline(self.left + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > self.left:
            place = self.table.place(self.number)
            raise DatasetError(
                f"{place} makes a row of more than {ROW_BYTES} bytes: close the quotes, or shorten the text",
                member=place,
            )
        self.left -= len(line)
        try:
            text = line.decode()
        except UnicodeDecodeError as failure:
            place = self.table.place(self.number)
            raise DatasetError(f"{place} is not UTF-8: save the file as UTF-8", member=place) from failure
        return text.removeprefix(BYTE_ORDER_MARK) if self.number == 1 else text
