"""Rows of untrusted tables, read as a stream with a limited size per row."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any

from lit_core.data.errors import DatasetError, damage_is_an_error, shown
from lit_core.data.readers.dialects import JSON_LINES, TAB, TSV, Dialect, dialect_of
from lit_spec import TableColumns

ROW_BYTES = 1 << 20
"""Of all lines of a row. The csv module itself limits a column to 131,072 characters."""
HEAD_BYTES = 1 << 16
"""From which the dialect is told."""
BYTE_ORDER_MARK = "\ufeff"


class CSV(csv.excel):
    strict = True


@dataclass(frozen=True)
class Table:
    """A file of rows."""

    name: str
    """The member's name in the archive; empty for a single file."""
    separator: str | None
    """That of the file's format; None: the file's first rows tell it."""
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    columns: TableColumns | None = None
    """Those that the request names."""

    def rows(self) -> Iterator[Row]:
        """Rows of at least two columns, all with as many columns as the first one. Empty lines are skipped, and so is
        a header that names the columns.

        Raises DatasetError.
        """
        columns = 0
        for row in self._rows():
            header = columns == 0 and row.dialect.columns is not None and row.dialect.separator != JSON_LINES
            columns = columns or len(row.cells)
            if len(row.cells) < 2:
                raise DatasetError(f"{row.place} has one column: give a label and a text", member=row.place)
            if len(row.cells) != columns:
                raise DatasetError(
                    f"{row.place} has {len(row.cells)} columns, but the first row has {columns}: "
                    f"{_told(row.dialect.separator)}",
                    member=row.place,
                )
            if not header:
                yield row

    def _rows(self) -> Iterator[Row]:
        with damage_is_an_error(shown(self.name) or "the file", member=shown(self.name) or None), self.open() as file:
            lines = _Lines(file, self)
            dialect = lines.dialect()
            if dialect.separator == JSON_LINES:
                yield from self._objects(lines, dialect)
                return
            reader = csv.reader(lines, TSV if dialect.separator == TAB else CSV, delimiter=dialect.separator)
            before = lines.number
            while True:
                line = before + reader.line_num + 1
                lines.left = ROW_BYTES
                try:
                    cells = next(reader, None)
                except csv.Error as failure:
                    place = self.place(line)
                    if "new-line character" in str(failure):
                        raise DatasetError(
                            f"{place} has lines that end with a carriage return alone: save the file with LF or CRLF",
                            member=place,
                        ) from failure
                    if "larger than field limit" in str(failure):
                        raise DatasetError(
                            f"{place} has a text of more than {csv.field_size_limit():,} characters: close the quotes, "
                            "or shorten it",
                            member=place,
                        ) from failure
                    raise DatasetError(
                        f"{place} can't be read ({failure}): put texts with commas, quotes or line breaks into quotes, "
                        "and double the quotes in them",
                        member=place,
                    ) from failure
                if cells is None:
                    return
                if cells:
                    yield Row(self, line, cells, dialect)

    def _objects(self, lines: _Lines, dialect: Dialect) -> Iterator[Row]:
        """Of JSON lines."""
        for text in lines:
            lines.left = ROW_BYTES
            if not text.strip():
                continue
            place = self.place(lines.number)
            try:
                found = json.loads(text)
            except (ValueError, RecursionError) as failure:
                raise DatasetError(
                    f"{place} is no JSON ({failure}): write one object a line", member=place
                ) from failure
            if not isinstance(found, dict):
                raise DatasetError(f"{place} is no JSON object: write one object a line", member=place)
            yield Row(self, lines.number, _cells(found, dialect, place), dialect)

    def place(self, line: int) -> str:
        """The file's name, if it has one, and the line; for messages."""
        return f"{shown(self.name)} line {line}".lstrip()


@dataclass(frozen=True, slots=True)
class Row:
    table: Table
    line: int
    """The number of its first line, counted from 1."""
    cells: list[str]
    dialect: Dialect

    @property
    def place(self) -> str:
        return self.table.place(self.line)

    @property
    def label(self) -> str:
        """Empty for a sample without a label."""
        columns = self.dialect.columns
        if columns is None:
            return self.cells[0].strip()
        return "" if columns.label is None else self.cells[columns.label].strip()

    @property
    def text(self) -> str:
        """The columns of text, joined by a space."""
        columns = self.dialect.columns
        return " ".join(self.cells[1:] if columns is None else [self.cells[place] for place in columns.texts])


class _Lines:
    """A file's decoded lines, limited to what a row may still have."""

    def __init__(self, file: IO[bytes], table: Table) -> None:
        self.file, self.table = file, table
        self.left = ROW_BYTES
        self.number = 0
        self.head = b""

    def dialect(self) -> Dialect:
        """Told by the first lines, which are read all the same. Raises DatasetError."""
        self.head = self.file.read(HEAD_BYTES)
        whole = self.head if len(self.head) < HEAD_BYTES else self.head[: self.head.rfind(b"\n") + 1] or self.head
        text = whole.decode(errors="replace").removeprefix(BYTE_ORDER_MARK)
        found = dialect_of(text, shown(self.table.name), self.table.separator, self.table.columns)
        if found.says_so:
            next(self)
        return found

    def _readline(self, most: int) -> bytes:
        end = self.head.find(b"\n") + 1
        if 0 < end <= most or (self.head and len(self.head) >= most):
            line, self.head = self.head[: end or most], self.head[end or most :]
            return line
        line, self.head = self.head, b""
        return line + self.file.readline(most - len(line))

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._readline(self.left + 1)
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


def _cells(found: dict[str, Any], dialect: Dialect, place: str) -> list[str]:
    """Of a JSON object, as a row of a table; columns that are not used are empty. Raises DatasetError."""
    cells = [""] * max(2, len(dialect.keys))
    if dialect.columns is None:
        return cells
    for column in dialect.columns.texts:
        value = found.get(dialect.keys[column])
        if not isinstance(value, str):
            key = shown(dialect.keys[column])
            raise DatasetError(
                f'{place} has no text in "{key}": give every object one', field="dataset.columns", member=place
            )
        cells[column] = value
    if dialect.columns.label is not None:
        cells[dialect.columns.label] = _label(found.get(dialect.keys[dialect.columns.label]), place)
    return cells


def _label(value: Any, place: str) -> str:
    """Raises DatasetError for lists and objects."""
    if isinstance(value, (list, dict)):
        kind = "a list" if isinstance(value, list) else "an object"
        raise DatasetError(
            f"{place} has {kind} as its label: give a text or a number", field="dataset.columns", member=place
        )
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _told(separator: str) -> str:
    if separator == TAB:
        return "take tabs out of texts"
    name = {",": "commas", ";": "semicolons", "|": "bars"}.get(separator, "separators")
    return f"put texts with {name} into quotes"
