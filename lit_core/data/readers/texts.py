"""Texts with labels: CSV in the layout of Zhang et al. (NeurIPS 2015) or with a header, TSV, JSON lines, and archives.

A row is a label and one or more columns of text. Files are read twice, row by row: once for the labels, and once to put
each text directly into its place.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from lit_core.data.errors import DatasetError, shown
from lit_core.data.labels import NO_LABEL
from lit_core.data.pixels import CHUNK
from lit_core.data.readers.archives import Member, walk
from lit_core.data.readers.dialects import JSON_LINES, TAB, unused_columns
from lit_core.data.readers.images import is_ignored
from lit_core.data.readers.rows import Row, Table
from lit_core.data.readers.unlabelled import INTEGER, Unlabelled
from lit_core.data.source import Raw, Source
from lit_core.data.splits import NAMES, SPLITS, TRAIN, empty_split
from lit_core.data.text_preprocessing import resolve_text_preprocessing
from lit_spec.requests.contents import WHOLE
from lit_spec.shown import some_shown

SEPARATORS = {".csv": None, ".tsv": TAB, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES}
CLASSES_FILE = "classes.txt"
CLASSES_BYTES = 1 << 20
OFFICE = "[Content_Types].xml"
"""The first file in each document of Office, which is a zip archive."""
NOT_IN_TEXTS = bytes(set(range(32)) - set(b"\t\n\r\f"))
EXPECTED = (
    "train.csv, train.tsv or train.jsonl, perhaps val (or valid, validation, dev) and test, perhaps in one folder"
)


@dataclass
class _Labels:
    """The label cells of a table: the first row's as text, the others as numbers."""

    first: Row
    others: array[int] = field(default_factory=lambda: array("i"))
    header: bool = False
    """Whether the first row names the columns, by names that do not tell which is which."""

    @property
    def samples(self) -> int:
        return len(self.others) + (not self.header)


class _Numbers:
    """Numbers the labels in the order of appearance. Raises DatasetError for more labels than the teacher has classes.

    Empty cells, and those with the label that `dataset.unlabelled` names, are NO_LABEL.
    """

    def __init__(self, source: Source) -> None:
        self.order, self.classes = source.request.class_order, source.classes
        self.known: dict[str, int] = {}
        self.unlabelled = Unlabelled(source.request)

    def of(self, row: Row) -> int:
        label = self.plain(row.label)
        if not label or self.unlabelled.is_none(label, lambda: row.place):
            return NO_LABEL
        if label not in self.known:
            self._check(label, row)
            self.known[label] = len(self.known)
        return self.known[label]

    def plain(self, label: str) -> str:
        """An integer that is written as a float is the integer, unless class_order has it so."""
        whole = WHOLE.fullmatch(label)
        return label if whole is None or (self.order is not None and label in self.order) else whole[1]

    def _check(self, label: str, row: Row) -> None:
        if self.order is not None and label not in self.order:
            raise DatasetError(
                f'{row.place} has the label "{shown(label)}", which class_order lacks: name every label',
                field="dataset.class_order",
                member=row.place,
            )
        if len(self.known) == self.classes:
            self.unlabelled.check()
            raise DatasetError(
                f'{row.place} has the label "{shown(label)}", but the teacher has {self.classes} classes, and there '
                f"are as many other labels ({some_shown(self.known)})",
                member=row.place,
            )


def is_text(head: bytes) -> bool:
    """Whether a file with this start may be CSV or TSV: all its bytes occur in texts."""
    return bool(head) and not any(byte in NOT_IN_TEXTS for byte in head)


def may_be_table(name: str) -> bool:
    """Whether an archive whose first file has this name, in lower case, has texts."""
    path = PurePosixPath(name)
    return path.suffix in SEPARATORS or path.name in (CLASSES_FILE, OFFICE.lower())


def read_text_file(source: Source) -> Raw:
    """One file of rows, without splits. Raises DatasetError."""
    table = Table("", None, lambda: source.path.open("rb"), source.request.columns)
    numbers = _Numbers(source)
    labels = _read_labels(table, numbers, source)
    _tell_headers([labels] if labels else [], numbers)
    if labels is None or labels.samples == 0:
        raise DatasetError("the file has no texts: give rows of a label and a text", field="dataset.upload")
    unlabelled = numbers.unlabelled.notes()
    y, classes = _outputs([labels], numbers, None, source)
    x = _allocate(len(y), source)
    _fill(x, 0, table, labels, source)
    return Raw(x, y, None, classes, notes=[*_unused([labels]), *unlabelled])


def read_text_archive(source: Source) -> Raw:
    """An archive with a file of rows for each split, which is walked twice. Raises DatasetError."""
    numbers, alone = _Numbers(source), _is_alone(source)
    splits, names = _splits(source, numbers, alone=alone)
    unlabelled = numbers.unlabelled.notes()
    y, classes = _outputs(list(splits.values()), numbers, names, source)
    x = _allocate(len(y), source)
    samples = [labels.samples for labels in splits.values()]
    places = dict(zip(splits, [0, *accumulate(samples)], strict=False))
    for member in _members(source):
        if not _names_classes(member):
            code = _code(member, alone=alone)
            _fill(x, places[code], _table(member, source), splits[code], source)
    codes = None if alone else torch.repeat_interleave(torch.tensor(list(splits)), torch.tensor(samples))
    return Raw(x, y, codes, classes, notes=[*_unused(list(splits.values())), *unlabelled])


# --- which files there are ----------------------------------------------------------------------------------


def _is_alone(source: Source) -> bool:
    """Whether the archive has one file of rows, whose name is none of a split."""
    names = (PurePosixPath(member.name) for member in _members(source) if not _names_classes(member))
    first = next(names, None)
    if first is None or first.stem.lower() in NAMES or first.suffix.lower() not in SEPARATORS:
        return False
    return next(names, None) is None


def _splits(source: Source, numbers: _Numbers, *, alone: bool) -> tuple[dict[int, _Labels], list[str] | None]:
    """The labels of each split, by split code in ascending order, and the names in classes.txt."""
    found: dict[int, _Labels | None] = {}
    folders, names = set(), None
    for member in _members(source):
        folders.add(PurePosixPath(member.name).parent)
        if _names_classes(member):
            names = _class_names(member, source)
            continue
        code = _code(member, alone=alone)
        if code in found:
            name = shown(member.name)
            raise DatasetError(f'{name} is a second file of the split "{SPLITS[code]}": give one a split', member=name)
        found[code] = _read_labels(_table(member, source), numbers, source)
    if len(folders) > 1:
        raise DatasetError(f"the files lie in {len(folders)} folders: expected {EXPECTED}", field="dataset.upload")
    _tell_headers([labels for labels in found.values() if labels], numbers)
    for code in (TRAIN, *found) if source.trains else found:
        labels = found.get(code)
        if labels is None or labels.samples == 0:
            raise empty_split(SPLITS[code])
    return {code: labels for code, labels in sorted(found.items()) if labels}, names


def _members(source: Source) -> Iterator[Member]:
    """The files that are read. The limit per member does not apply, because a table is as large as the data set."""
    for member in walk(source.path, replace(source.limits, member_bytes=source.limits.total_bytes)):
        if is_ignored(member.name):
            if source.probe is not None:
                source.probe.skip(member.name)
        elif not member.is_folder:
            yield member


def _names_classes(member: Member) -> bool:
    return PurePosixPath(member.name).name.lower() == CLASSES_FILE


def _code(member: Member, *, alone: bool) -> int:
    """The split that the file is named after."""
    path = PurePosixPath(member.name)
    code = TRAIN if alone else NAMES.get(path.stem.lower())
    if path.name == OFFICE:
        raise DatasetError("the file is an Office document: save its sheet as CSV", field="dataset.upload")
    if code is None or path.suffix.lower() not in SEPARATORS or len(path.parts) > 2:
        name = shown(member.name)
        raise DatasetError(f"{name} is not a file of texts: give {EXPECTED}", member=name)
    return code


def _table(member: Member, source: Source) -> Table:
    separator = SEPARATORS[PurePosixPath(member.name).suffix.lower()]
    return Table(member.name, separator, member.open, source.request.columns)


def _class_names(member: Member, source: Source) -> list[str]:
    """The names of the classes, one per line, as in the data sets of Zhang et al."""
    name = shown(member.name)
    if member.size > CLASSES_BYTES:
        raise DatasetError(f"{name} has {member.size} bytes: at most {CLASSES_BYTES} are read", member=name)
    try:
        names = [line.strip() for line in member.read().decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as failure:
        raise DatasetError(f"{name} is not UTF-8: save it as UTF-8", member=name) from failure
    if source.classes not in (None, len(names)) or len(set(names)) != len(names):
        raise DatasetError(
            f"{name} has {len(names)} lines ({len(set(names))} different), but the teacher has {source.classes} "
            "classes: name each once",
            member=name,
        )
    return names


# --- labels -------------------------------------------------------------------------------------------------


def _read_labels(table: Table, numbers: _Numbers, source: Source) -> _Labels | None:
    """None for a table without rows."""
    labels: _Labels | None = None
    most = source.limits.memory_bytes // source.request.length
    for row in table.rows():
        if labels is None:
            labels = _Labels(row)
        elif len(labels.others) == most:
            raise DatasetError(
                f"more than {most} texts of {source.request.length} characters are more than "
                f"{source.limits.memory_bytes} bytes: lower dataset.length",
                field="dataset.length",
            )
        else:
            labels.others.append(numbers.of(row))
    return labels


def _tell_headers(tables: Sequence[_Labels], numbers: _Numbers) -> None:
    """The first row is a header if its label cell is not an integer, not in class_order, and in no other row."""
    seen = {*numbers.known, *(numbers.order or ()), ""}
    for labels in tables:
        label = numbers.plain(labels.first.label)
        named = labels.first.dialect.columns is not None
        labels.header = not named and label not in seen and not INTEGER.fullmatch(label)
        if not labels.header:
            numbers.of(labels.first)


def _outputs(
    tables: Sequence[_Labels], numbers: _Numbers, names: list[str] | None, source: Source
) -> tuple[Tensor, list[str]]:
    """Each sample's output (N,) int64, and the classes in the order of the outputs."""
    order, classes = _order(numbers, names, source)
    output = {label: place for place, label in enumerate(order)}
    # The last entry is for NO_LABEL, which is -1.
    by_number = torch.tensor([*(output[label] for label in numbers.known), NO_LABEL])
    parts = []
    for labels in tables:
        first = [] if labels.header else [numbers.of(labels.first)]
        parts.append(np.concatenate([np.array(first, dtype=np.int32), np.frombuffer(labels.others, dtype=np.int32)]))
    return by_number[torch.from_numpy(np.concatenate(parts)).long()], classes


def _order(numbers: _Numbers, names: list[str] | None, source: Source) -> tuple[list[str], list[str]]:
    """The labels in the order of the outputs, and the names of the classes."""
    found = list(numbers.known)
    if numbers.order is not None:
        return numbers.order, list(numbers.order)
    if names is not None:
        return _named(found, names)
    if not found:
        outputs = [str(output) for output in range(source.classes or 0)]
        return outputs, outputs
    if source.classes not in (None, len(found)):
        raise DatasetError(
            f"the texts have {len(found)} labels ({some_shown(found)}), but the teacher has {source.classes} classes: "
            "name all of them, in the order of its outputs, in dataset.class_order",
            field="dataset.class_order",
        )
    integers = all(INTEGER.fullmatch(label) for label in found)
    ordered = sorted(found, key=int) if integers else sorted(found)
    return ordered, ordered


def _named(found: list[str], names: list[str]) -> tuple[list[str], list[str]]:
    """With classes.txt, label n is the name in line n."""
    numbered = [str(line) for line in range(1, len(names) + 1)]
    for label in found:
        if label not in numbered:
            raise DatasetError(
                f'there is a label "{shown(label)}", but {CLASSES_FILE} names the labels 1..{len(names)}: '
                "leave it out, or give dataset.class_order",
                field="dataset.class_order",
                member=CLASSES_FILE,
            )
    return numbered, names


def _unused(tables: Sequence[_Labels]) -> list[str]:
    columns = [labels.first.dialect.columns for labels in tables]
    return unused_columns(name for found in columns if found is not None for name in found.left_out)


# --- texts --------------------------------------------------------------------------------------------------


def _allocate(samples: int, source: Source) -> Tensor:
    preprocessing = resolve_text_preprocessing(source.request, [])
    return preprocessing.from_texts([]).new_empty(samples, 0 if source.probe else preprocessing.length)


def _fill(x: Tensor, row: int, table: Table, labels: _Labels, source: Source) -> None:
    """Put the table's texts into x (N, L), from `row` on."""
    preprocessing, probe = resolve_text_preprocessing(source.request, []), source.probe
    rows = islice(table.rows(), int(labels.header), None)
    texts = (row.text for row in rows)
    for start in range(row, row + labels.samples, CHUNK):
        part = list(islice(texts, min(CHUNK, row + labels.samples - start)))
        if probe is None:
            x[start : start + len(part)] = preprocessing.from_texts(part)
        elif probe.is_over:
            return
        else:
            probe.see_texts(start, part)
