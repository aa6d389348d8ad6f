"""How a table is written, from its first rows: the separator, and which columns are the label and the texts."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lit_core.data.errors import DatasetError, shown

TAB, JSON_LINES = "\t", "json"
SEPARATORS = (",", ";", "|", TAB)
ROWS_COMPARED = 20
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
NUMBERS = frozenset(("", "id", "idx", "index", "guid", "unnamed: 0", "#"))
"""Columns that number the rows, as pandas writes them."""
OTHER_FORMATS = (
    (re.compile(r"\s*<(!doctype|html|\?xml)", re.IGNORECASE), "an HTML or XML page, perhaps of a failed download"),
    (re.compile(r"version https://git-lfs\.github\.com"), "a pointer of Git LFS: run `git lfs pull`"),
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


def dialect_of(head: str, name: str, separator: str | None = None) -> Dialect:
    """From the first whole lines of a file. `separator`: that of the file's format. Raises DatasetError that names the
    member `name` of an archive, if there is one."""
    lines = head.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if _is_object(first):
        return _of_objects(first, name)
    for pattern, what in OTHER_FORMATS:
        if pattern.match(first):
            raise _refused(name, f"is {what}: give CSV, TSV, JSON lines or Parquet")
    if separator == JSON_LINES and first:
        raise _refused(name, "is no JSON in its first line: write one object a line")
    said = re.fullmatch(r"sep=(.)", first.strip("\r\n"))
    if said is not None:
        return Dialect(said[1], _named(_cells(lines[1:2], said[1])), says_so=True)
    found = _separator(lines, first) if separator in (None, JSON_LINES) else separator
    return Dialect(found, _named(_cells([first], found)))


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


def _named(cells: Sequence[str]) -> Columns | None:
    """The columns, if the cells are a header with a name that tells them."""
    if len(cells) < 2 or not all(NAME.fullmatch(cell.strip()) for cell in cells):
        return None
    plain = {cell.strip().lower() for cell in cells}
    is_header = not plain.isdisjoint(LABELS) or (not plain.isdisjoint(NUMBERS) and not plain.isdisjoint(TEXTS))
    return columns_named(cells) if is_header else None


def columns_named(names: Sequence[str]) -> Columns | None:
    """Which of the named columns are which; None if no name tells it."""
    plain = [name.strip().lower() for name in names]
    label = next((plain.index(name) for name in LABELS if name in plain), None)
    texts = [place for place, name in enumerate(plain) if name in TEXTS]
    others = [
        place
        for place, name in enumerate(plain)
        if place != label and name not in NUMBERS and name not in LABELS and place not in texts
    ]
    if label is None and not texts:
        return None
    if label is None and len(others) == 1:
        label = others.pop()
    if not texts:
        texts, others = others, []
    if not texts:
        return None
    return Columns(label, tuple(texts), tuple(names[place] for place in others))


def _is_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _of_objects(first: str, name: str) -> Dialect:
    keys = tuple(json.loads(first))
    columns = columns_named(keys)
    if columns is None:
        names = ", ".join(map(shown, keys[:8]))
        raise _refused(name, f'has objects of {names}: name the label "label" and the text "text"')
    return Dialect(JSON_LINES, columns, keys)
