"""How a table is written, from its first rows: the separator, and which columns are the label and the texts."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lit_core.data.errors import DatasetError, shown
from lit_spec import TableColumns
from lit_spec.shown import some_shown

TAB, JSON_LINES = "\t", "json"
SEPARATORS = (",", ";", "|", TAB)
ROWS_COMPARED = 20
COLUMNS_NAMED = 20
QUOTED = re.compile(r'"(?:[^"]|"")*"')
NAME = re.compile(r"|[^\W\d][\w ./:#-]{0,39}")
"""What a cell of a header may be."""
LABELS = ("label", "labels", "class", "class_name", "category", "target", "y", "sentiment", "polarity", "intent")
"""Names of columns, in lower case; the first that is there has the labels."""
TEXTS = frozenset(
    (
        *("text", "texts", "sentence", "sentence1", "sentence2", "sentence_1", "sentence_2", "title", "headline"),
        *("description", "content", "body", "review", "review_body", "comment", "message", "tweet", "document"),
        *("abstract", "summary", "question", "question1", "question2", "answer", "premise", "hypothesis", "query"),
    )
)
IMAGES = ("image", "images", "img", "picture", "photo")
NUMBERS = frozenset(("", "id", "idx", "index", "guid", "unnamed: 0", "#", "__index_level_0__"))
"""Columns that number the rows, as pandas writes them."""
OTHER_FORMATS = (
    (re.compile(r"\s*<(!doctype|html|\?xml)", re.IGNORECASE), "an HTML or XML page, perhaps of a failed download"),
    (
        re.compile(r"version https://git-lfs\.github\.com"),
        "a pointer of Git LFS, so that `git lfs pull` has to fetch the file first",
    ),
    (re.compile(r"---\s*$|- ?\{|- \w+: |%YAML", re.MULTILINE), "YAML"),
    (re.compile(r"\s*[\[{]\s*$|\s*\[\s*[\[{\"]|\s*\{\s*\"[^\"]*\":\s*[\[{]", re.MULTILINE), "one JSON document"),
    (re.compile(r"__label__"), "in fastText's format"),
)


class TSV(csv.excel_tab):
    """Quotes have no meaning."""

    quoting = csv.QUOTE_NONE


@dataclass(frozen=True)
class Columns:
    label: int | None
    """None: no sample has a label."""
    texts: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    """Names of columns that are neither."""


@dataclass(frozen=True)
class Dialect:
    separator: str
    """JSON_LINES: each line is a JSON object."""
    columns: Columns | None = None
    """As the header names them; None: the first column is the label, and the others are texts."""
    keys: tuple[str, ...] = ()
    """Of JSON lines: the names of the columns."""
    says_so: bool = False
    """Whether the first line says what the separator is, as Excel's `sep=;`."""


def dialect_of(head: str, name: str, separator: str | None = None, asked: TableColumns | None = None) -> Dialect:
    """From the first whole lines of a file. `separator`: that of the file's format; `asked`: the columns that the
    request names. Raises DatasetError that names the member `name` of an archive, if there is one."""
    lines = head.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if _is_object(first):
        return _of_objects(first, name, asked)
    for pattern, what in OTHER_FORMATS:
        if pattern.match(first):
            raise _refused(name, f"is {what}: give CSV, TSV, JSON lines or Parquet")
    if separator == JSON_LINES and first:
        raise _refused(name, "is no JSON in its first line: write one object a line")
    said = re.fullmatch(r"sep=(.)", first.strip("\r\n"))
    if said is not None:
        return Dialect(said[1], _header(_cells(lines[1:2], said[1]), name, asked), says_so=True)
    found = _separator(lines, first) if separator in (None, JSON_LINES) else separator
    return Dialect(found, _header(_cells([first], found), name, asked))


def _refused(name: str, what: str) -> DatasetError:
    return DatasetError(f"{name or 'the file'} {what}", field="dataset.upload", member=name or None)


def _separator(lines: Sequence[str], first: str) -> str:
    """Of the separators with which the rows have equally many columns, the one that comes first in the first line."""
    plain = QUOTED.sub("", first)
    present = sorted((place, one) for one in SEPARATORS if (place := plain.find(one)) >= 0)
    even = [one for _, one in present if _is_even(lines, one)]
    return (even or [one for _, one in present] or [","])[0]


def _is_even(lines: Sequence[str], separator: str) -> bool:
    try:
        widths = {len(row) for row in islice(_rows(lines, separator), ROWS_COMPARED) if row}
    except csv.Error:
        return False
    return len(widths) == 1 and widths != {1}


def _rows(lines: Sequence[str], separator: str) -> Any:
    return csv.reader([f"{line}\n" for line in lines], TSV if separator == TAB else csv.excel, delimiter=separator)


def _cells(lines: Sequence[str], separator: str) -> list[str]:
    try:
        return list(next(_rows(lines, separator), []))
    except csv.Error:
        return []


def _header(cells: Sequence[str], name: str, asked: TableColumns | None) -> Columns | None:
    """The columns, if the cells are a header with a name that tells them. Raises DatasetError."""
    names = [cell.strip() for cell in cells]
    if asked is not None:
        return columns_asked(names, name, asked) if names else None
    if len(names) < 2 or not all(NAME.fullmatch(cell) for cell in names):
        return None
    plain = {cell.lower() for cell in names}
    is_header = not plain.isdisjoint(LABELS) or (not plain.isdisjoint(NUMBERS) and not plain.isdisjoint(TEXTS))
    return columns_named(names) if is_header else None


def columns_named(names: Sequence[str]) -> Columns | None:
    """Which of the named columns are which; None if no name tells it."""
    label, texts, others = _told(names, TableColumns())
    if label is None and not texts:
        return None
    if label is None and len(others) == 1:
        label = others.pop()
    if not texts:
        texts, others = others, []
    return _columns(names, label, texts, others) if texts else None


def columns_asked(names: Sequence[str], file: str, asked: TableColumns) -> Columns:
    """The columns that the request names; one that it does not name is told by its name alone. Raises DatasetError."""
    for field, wanted in asked_names(asked):
        if names.count(wanted) != 1:
            raise no_column(
                field, wanted, f"{file or 'the file'} has the columns {some_shown(names, COLUMNS_NAMED)}", file
            )
    label, texts, others = _told(names, asked)
    if not texts:
        texts, others = others, []
    if not texts:
        raise DatasetError(
            f"{file or 'the file'} has no column of texts beside {some_shown(names, COLUMNS_NAMED)}: name it in "
            "dataset.columns.text",
            field="dataset.columns",
            member=file or None,
        )
    return _columns(names, label, texts, others)


def asked_names(asked: TableColumns) -> list[tuple[str, str]]:
    """Each column that the request names, with the field that names it."""
    single = [(field, name) for field in ("image", "label") if (name := getattr(asked, field)) is not None]
    return [*(("text", name) for name in asked.texts), *single]


def no_column(field: str, name: str, has: str, file: str) -> DatasetError:
    """The error of a name in the request that is not that of one column. `has` says which there are."""
    return DatasetError(
        f'dataset.columns.{field} names "{shown(name)}", but {has}: name one of these',
        field=f"dataset.columns.{field}",
        member=file or None,
    )


def unused_columns(names: Iterable[str]) -> list[str]:
    """A note on columns that are neither labels nor samples, if there are any."""
    left_out = list(dict.fromkeys(name for name in names if name.lower() not in NUMBERS))
    return [f"columns of the data set that are not used: {some_shown(left_out, COLUMNS_NAMED)}"] if left_out else []


def _told(names: Sequence[str], asked: TableColumns) -> tuple[int | None, list[int], list[int]]:
    """The label, the texts, and what may be either, by the request and by their names."""
    plain = [name.lower() for name in names]
    texts = [names.index(name) for name in asked.texts]
    if asked.label is not None:
        label: int | None = names.index(asked.label)
    else:
        label = next((plain.index(name) for name in LABELS if name in plain and plain.index(name) not in texts), None)
    texts = texts or [place for place, name in enumerate(plain) if name in TEXTS and place != label]
    others = [
        place
        for place, name in enumerate(plain)
        if place != label and name not in NUMBERS and name not in LABELS and place not in texts
    ]
    return label, texts, others


def _columns(names: Sequence[str], label: int | None, texts: Sequence[int], others: Sequence[int]) -> Columns:
    return Columns(label, tuple(texts), tuple(names[place] for place in others))


def _is_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _of_objects(first: str, name: str, asked: TableColumns | None) -> Dialect:
    keys = tuple(json.loads(first))
    columns = columns_named(keys) if asked is None else columns_asked(keys, name, asked)
    if columns is None:
        names = ", ".join(map(shown, keys[:8]))
        raise _refused(name, f"has objects of {names}: name the columns in dataset.columns")
    return Dialect(JSON_LINES, columns, keys)
