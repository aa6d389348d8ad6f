"""Labels and splits of Parquet files: integers or names in a column, with or without Hugging Face's metadata."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic_core import from_json
from torch import Tensor

from lit_core.data.errors import DatasetError, shown
from lit_core.data.labels import NO_LABEL, output_names
from lit_core.data.readers.dialects import LABELS
from lit_core.data.readers.parquet_files import ParquetTable
from lit_core.data.readers.unlabelled import OutputLabels, Place, Unlabelled, whole_numbers
from lit_core.data.source import Source
from lit_core.data.splits import NAMES, SPLITS
from lit_spec.shown import some_shown

BATCH_ROWS = 4096
SPLIT = "split"
LABEL = "label"
LABEL_SUFFIX = "_label"


def is_text(kind: pa.DataType) -> bool:
    """Whether it is strings, plain or dictionary-encoded."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def class_names(table: ParquetTable, column: str) -> list[str] | None:
    """The class names of a ClassLabel column, from Hugging Face's metadata in the schema. Raises DatasetError."""
    text = (table.schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        features = from_json(text)["info"]["features"]
        feature = features.get(column, {})
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        raise DatasetError(
            f"the metadata that Hugging Face's library wrote can't be read ({shown(repr(failure))}): write the file "
            "again, or without it",
            member=table.name or None,
        ) from failure
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DatasetError(f"the class names of {shown(column)} must be texts that differ", member=shown(column))
    return names


def label_named(table: ParquetTable, source: Source) -> str | None:
    """The column that its name or the metadata tells to be the labels; None if none does. Raises DatasetError."""
    names: list[str] = table.schema.names
    columns = [name for name in names if _may_be_label(name) or class_names(table, name) is not None]
    plain = [name for name in columns if name.lower() == LABEL]
    if len(plain) == 1:
        return plain[0]
    if len(columns) > 1:
        columns = [name for name in columns if len(class_names(table, name) or ()) == source.classes] or columns
    if len(columns) > 1:
        raise several_labels(columns)
    return columns[0] if columns else None


def several_labels(columns: list[str]) -> DatasetError:
    return DatasetError(
        f"several columns may hold the labels ({some_shown(columns)}): name the one that is meant in "
        "dataset.columns.label, or name only that of the images or texts in dataset.columns if there are no labels",
        field="dataset.columns",
        member=shown(columns[0]),
    )


def holds_labels(kind: pa.DataType) -> bool:
    """Whether a column of this type may have labels, whatever its name is."""
    return bool(pa.types.is_integer(kind) or is_text(kind))


def _may_be_label(name: str) -> bool:
    return name.lower() in LABELS or name.lower().endswith(LABEL_SUFFIX)


class Labels:
    """The labels of several files as they are read; the files must agree on what labels are."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._outputs = OutputLabels(source)
        self._unlabelled = Unlabelled(source.request)
        """Of text labels."""
        self._texts: bool | None = None
        self._declared: list[str] | None = None
        """From the metadata: integers are indices in this list."""
        self._found: dict[str, int] = {}
        """Of text labels: each with its number in the order of appearance."""
        self._y: list[NDArray[np.int64]] = []

    def skip(self, rows: int) -> None:
        """Add this many samples without labels."""
        self._y.append(np.full(rows, NO_LABEL, dtype=np.int64))

    def declare(self, table: ParquetTable, column: str) -> None:
        """Check the type of a file's labels before they are read. Raises DatasetError if the files do not agree."""
        kind = table.schema.field(column).type
        if not (holds_labels(kind) or pa.types.is_floating(kind)):
            raise DatasetError(
                f"the labels must be integers or texts; {table.described()}", member=table.place(column, 0)
            )
        if self._texts not in (None, is_text(kind)):
            raise DatasetError(f"the labels are texts in one file and integers in another; {table.described()}")
        self._texts = is_text(kind)
        names = class_names(table, column)
        if names is None or self._texts:
            return
        if self._source.classes not in (None, len(names)):
            raise DatasetError(
                f"{shown(column)} has {len(names)} classes ({some_shown(names)}), but the teacher has "
                f"{self._source.classes}: use the data that the teacher was trained on",
                member=shown(column),
            )
        if self._declared not in (None, names):
            raise DatasetError(f"the class names of {shown(column)} differ between the files", member=shown(column))
        self._declared = names

    def take(self, table: ParquetTable, column: str, values: pa.Array, start: int) -> None:
        """Add the labels of the rows from `start`. Raises DatasetError."""

        def place(row: int) -> str:
            return table.place(column, start + row)

        self._y.append(self._numbers_of_texts(values, place) if self._texts else self._integers(values, place))

    def notes(self) -> list[str]:
        """What `take` has found of samples without a label. Raises DatasetError."""
        if self._texts is None:
            return []
        return self._unlabelled.notes() if self._texts else self._outputs.notes()

    @property
    def numbered(self) -> bool:
        """Whether they are numbers of outputs that nothing names."""
        return not self._texts and self._declared is None

    def result(self) -> tuple[Tensor, list[str]]:
        """y (N,) int64, indices of the outputs or -1; and the outputs' names. Raises DatasetError."""
        y = torch.from_numpy(np.concatenate(self._y))
        names = list(self._found) if self._texts else self._declared
        if names is None:
            return y, list(self._source.request.class_order or output_names(y, self._source.classes))
        outputs = self._ordered(names)
        # One more entry at the end, for the index -1.
        place = {name: number for number, name in enumerate(outputs)}
        places = torch.tensor([*(place[name] for name in names), NO_LABEL])
        return places[y], outputs

    def _ordered(self, names: list[str]) -> list[str]:
        order = self._source.request.class_order
        if order is not None:
            for name in names:
                if name not in order:
                    raise DatasetError(
                        f'class_order lacks "{shown(name)}", which is a class of the data: name each of its classes',
                        field="dataset.class_order",
                        member=shown(name),
                    )
            return list(order)
        if self._source.classes not in (None, len(names)):
            raise self._other_number_of_classes(names)
        return names if self._declared is not None else sorted(names)

    def _other_number_of_classes(self, names: list[str]) -> DatasetError:
        return DatasetError(
            f"the labels name {len(names)} classes ({some_shown(names)}), but the teacher has {self._source.classes}: "
            "use the data that the teacher was trained on, or name all of its classes in class_order",
            field="dataset.class_order",
        )

    def _numbers_of_texts(self, values: pa.Array, place: Place) -> NDArray[np.int64]:
        numbers = np.empty(len(values), dtype=np.int64)
        for row, name in enumerate(values.to_pylist()):
            if name is None or self._unlabelled.is_none(name, partial(place, row)):
                numbers[row] = NO_LABEL
                continue
            numbers[row] = self._found.setdefault(name, len(self._found))
            if self._source.classes is not None and len(self._found) > self._source.classes:
                self._unlabelled.check()
                raise self._other_number_of_classes(list(self._found))
        return numbers

    def _integers(self, values: pa.Array, place: Place) -> NDArray[np.int64]:
        missing = values.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_floating(values.type):
            numbers = whole_numbers(values.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False), place)
        else:
            numbers = as_integers(values, 0)
        return self._outputs.take(numbers, place, missing=missing, described=lambda row: str(values[row]))


def codes_of(table: ParquetTable, values: pa.Array, start: int) -> NDArray[np.int64]:
    """Splits of the rows from `start`, from a column with names or 0, 1 and 2. Raises DatasetError."""
    if is_text(values.type):
        codes = np.array([NAMES.get((name or "").lower(), -1) for name in values.to_pylist()], dtype=np.int64)
    elif pa.types.is_integer(values.type):
        codes = as_integers(values, -1)
    else:
        raise DatasetError(
            f'{SPLIT} must hold "train", "val" or "test", or 0, 1 or 2; {table.described()}', member=SPLIT
        )
    outside = np.flatnonzero((codes < 0) | (codes >= len(SPLITS)))
    if len(outside):
        place = table.place(SPLIT, start + int(outside[0]))
        value = shown(str(values[int(outside[0])]))
        raise DatasetError(f'{place} is {value}: it must be "train", "val" or "test", or 0, 1 or 2', member=place)
    return codes


def as_integers(values: pa.Array, missing: int) -> NDArray[np.int64]:
    """(N,) with `missing` for null. Larger numbers than int64 has become the largest of int64."""
    if values.type == pa.uint64():
        values = pc.min_element_wise(values, pa.scalar(np.iinfo(np.int64).max, pa.uint64()), skip_nulls=False)
    integers: NDArray[np.int64] = values.cast(pa.int64()).fill_null(missing).to_numpy(zero_copy_only=False)
    return integers
