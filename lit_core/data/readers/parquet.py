"""Parquet data sets: encoded images or texts, with or without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_core.data.errors import DatasetError, shown
from lit_core.data.pictures import MODES
from lit_core.data.pixels import picture_to_raw
from lit_core.data.probe import Probe
from lit_core.data.readers.dialects import IMAGES, NUMBERS, TEXTS, asked_names, no_column, unused_columns
from lit_core.data.readers.images import decode, faults_seen, member_of
from lit_core.data.readers.parquet_files import ParquetTable, tables_of
from lit_core.data.readers.parquet_labels import (
    BATCH_ROWS,
    SPLIT,
    Labels,
    codes_of,
    holds_labels,
    is_text,
    label_named,
    several_labels,
)
from lit_core.data.source import Raw, Source
from lit_core.data.store.decoding import ImageFiles, decode_images, identity_of
from lit_core.data.store.encoded import Encoded
from lit_core.data.store.rows import Rows
from lit_core.data.text_preprocessing import resolve_text_preprocessing
from lit_spec import Modality, TableColumns

TEXT_ROWS = 256
BYTES = "bytes"


@dataclass(frozen=True)
class _Layout:
    """The columns of a file by their meaning."""

    table: ParquetTable
    inputs: tuple[str, ...]
    label: str | None
    guessed: bool = False
    """Whether nothing but its type tells the column of the labels."""

    @property
    def has_splits(self) -> bool:
        return SPLIT in self.table.schema.names

    def place(self, row: int) -> str:
        return self.table.place(self.inputs[0], row)


def read_parquet(source: Source) -> Raw:
    """A Parquet file or an archive of several. Raises DatasetError."""
    with tables_of(source) as tables:
        _check_rows(tables, source)
        layouts = [_layout(table, source) for table in tables]
        y, codes, classes, notes, numbered = _labels_and_splits(layouts, source)
        x = _texts(layouts, source) if source.interface.modality == Modality.TEXT else _images(layouts, source)
    return Raw(x, y, codes, classes, numbered=numbered, fitted=True, notes=[*_notes(layouts), *notes])


def modalities_of(source: Source) -> list[Modality]:
    """What the columns may hold, images first; texts if there is nothing of either. Raises DatasetError."""
    with tables_of(source) as tables:
        kinds = [field.type for table in tables for field in table.schema]
    images, texts = any(map(_holds_images, kinds)), any(map(is_text, kinds))
    return [*([Modality.IMAGE] if images else []), *([Modality.TEXT] if texts or not images else [])]


def _check_rows(tables: Sequence[ParquetTable], source: Source) -> None:
    rows = sum(table.rows for table in tables)
    if rows == 0:
        raise DatasetError("the Parquet data has no rows")
    if rows > source.limits.samples:
        raise DatasetError(f"the Parquet data has {rows} rows: at most {source.limits.samples} are read")


# --- which column is what --------------------------------------------------------------------------------


def _layout(table: ParquetTable, source: Source) -> _Layout:
    """The columns that the request names; then those that their names tell; then those that their types tell."""
    asked = source.request.columns
    for field, name in asked_names(asked or TableColumns()):
        if name not in table.schema.names:
            raise no_column(field, name, table.described(), shown(table.name))
    label = label_named(table, source) if asked is None or asked.label is None else asked.label
    if source.interface.modality == Modality.TEXT:
        inputs = _text_columns(table, label, source)
    elif source.channels not in MODES:
        raise DatasetError(
            f"images give 1 or 3 channels, but the teacher takes {source.channels}: upload arrays (npz or safetensors)"
        )
    else:
        inputs = (_image_column(table, source),)
    if label is None and asked is None:
        guess = _label_of_type(table, inputs)
        return _Layout(table, inputs, guess, guessed=guess is not None)
    return _Layout(table, inputs, label)


def _image_column(table: ParquetTable, source: Source) -> str:
    candidates = [str(field.name) for field in table.schema if _holds_images(field.type)]
    if source.request.columns is not None and source.request.columns.image is not None:
        return _of_type([source.request.columns.image], candidates, table, "image")[0]
    named = [name for name in candidates if name.lower() in IMAGES] or candidates
    if len(named) != 1:
        raise DatasetError(
            f"{'no column holds' if not named else 'several columns may hold'} the images: give one of encoded images, "
            f"as binary or as a struct with the field {BYTES}, and name it in dataset.columns.image; "
            f"{table.described()}",
            field="dataset.columns",
        )
    return named[0]


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index(BYTES) >= 0 and _holds_images(kind.field(BYTES).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _text_columns(table: ParquetTable, label: str | None, source: Source) -> tuple[str, ...]:
    candidates = [field.name for field in table.schema if is_text(field.type) and field.name not in (label, SPLIT)]
    if source.request.columns is not None and source.request.columns.texts:
        return _of_type(source.request.columns.texts, candidates, table, "text")
    named = [name for name in candidates if name.lower() in TEXTS]
    if not named and len(candidates) != 1:
        raise DatasetError(
            f"{'no column holds' if not candidates else 'several columns may hold'} the texts: give one of strings, "
            f"and name it in dataset.columns.text; {table.described()}",
            field="dataset.columns",
        )
    return tuple(named or candidates)


def _of_type(names: Sequence[str], candidates: Sequence[str], table: ParquetTable, field: str) -> tuple[str, ...]:
    """The columns that the request names, if they hold what they are to hold. Raises DatasetError."""
    for name in names:
        if name not in candidates:
            raise DatasetError(
                f"the column {shown(name)} holds no {field}s: name another in dataset.columns.{field}; "
                f"{table.described()}",
                field=f"dataset.columns.{field}",
                member=shown(name),
            )
    return tuple(names)


def _label_of_type(table: ParquetTable, inputs: Sequence[str]) -> str | None:
    """The only other column of integers or strings that does not number the rows. Raises DatasetError for several."""
    candidates = [
        str(field.name)
        for field in table.schema
        if holds_labels(field.type)
        and field.name not in (*inputs, SPLIT)
        and field.name.lower() not in {*NUMBERS, *TEXTS, *IMAGES}
    ]
    if len(candidates) > 1:
        raise several_labels(candidates)
    return candidates[0] if candidates else None


def _notes(layouts: Sequence[_Layout]) -> list[str]:
    guessed = dict.fromkeys(layout.label for layout in layouts if layout.label is not None and layout.guessed)
    notes = [
        f"the column {shown(name)} is read as the labels, because no other can be: name it in dataset.columns.label, "
        "or name only the other column in dataset.columns if there are no labels"
        for name in guessed
    ]
    used = {name for layout in layouts for name in (*layout.inputs, layout.label, SPLIT)}
    names = (str(name) for layout in layouts for name in layout.table.schema.names)
    return [*unused_columns(name for name in names if name not in used), *notes]


# --- labels and splits -----------------------------------------------------------------------------------


def _labels_and_splits(
    layouts: Sequence[_Layout], source: Source
) -> tuple[Tensor, Tensor | None, list[str], list[str], bool]:
    """y (N,), the splits' codes (N,), the classes, notes, and whether labels are outputs' numbers. Raises
    DatasetError.
    """
    labels = Labels(source)
    codes = []
    for layout in layouts:
        table, label = layout.table, layout.label
        if label is None:
            labels.skip(table.rows)
        else:
            labels.declare(table, label)
            for start, values in _column(table, label):
                labels.take(table, label, values, start)
        codes += _codes(layout)
    notes = labels.notes()
    y, classes = labels.result()
    return y, _all_or_none(codes, layouts), classes, notes, labels.numbered


def _codes(layout: _Layout) -> list[NDArray[np.int64]]:
    """Split codes of a file's rows, piece by piece; -1 if the file has no split."""
    table = layout.table
    if layout.has_splits:
        return [codes_of(table, values, start) for start, values in _column(table, SPLIT)]
    return [np.full(table.rows, -1 if table.split is None else table.split, dtype=np.int64)]


def _all_or_none(codes: Sequence[NDArray[np.int64]], layouts: Sequence[_Layout]) -> Tensor | None:
    joined = torch.from_numpy(np.concatenate(codes))
    if bool((joined < 0).all()):
        return None
    for layout in layouts:
        if not layout.has_splits and layout.table.split is None:
            name = layout.table.name
            raise DatasetError(
                f"{name} belongs to no split, but other files do: begin its name with train, val or test", member=name
            )
    return joined


def _column(table: ParquetTable, name: str) -> Iterator[tuple[int, pa.Array]]:
    """A column's values in pieces, each with the number of its first row."""
    start = 0
    for batch in table.batches([name], BATCH_ROWS):
        yield start, batch.column(0)
        start += batch.num_rows


# --- images and texts ----------------------------------------------------------------------------------


def _images(layouts: Sequence[_Layout], source: Source) -> Rows:
    """(N, C, H, W) uint8, cropped and resized."""
    samples = sum(layout.table.rows for layout in layouts)
    if source.probe is not None:
        return _seen(_contents(layouts, source), samples, source, source.probe)

    def again(image: Encoded) -> tuple[Encoded, Image.Image]:
        return image, decode(member_of(image.name, image.read()), source.channels, source.limits)

    columns = (f"{layout.table.name} {layout.inputs[0]} {layout.table.rows}" for layout in layouts)
    files = ImageFiles(
        identity_of(source.path, columns),
        samples,
        source.path.stat().st_size,
        each=partial(_contents, layouts, source),
        decode=again,
    )
    return decode_images(files, source)


def _seen(images: Iterator[Encoded], samples: int, source: Source, probe: Probe) -> Tensor:
    """(N, 0): an inspection keeps nothing."""
    for image in images:
        if probe.is_over:
            break
        with faults_seen(source):
            picture = decode(member_of(image.name, image.read()), source.channels, source.limits)
            probe.see_image(image.row, picture_to_raw(picture))
    return torch.empty(samples, 0)


def _contents(layouts: Sequence[_Layout], source: Source) -> Iterator[Encoded]:
    rows = 0
    for layout in layouts:
        for row, content in enumerate(_encoded(layout)):
            place = layout.place(row)
            if content is None:
                raise DatasetError(
                    f"{place} has no image in it (a path alone leads nowhere here): write the images' bytes into the "
                    "file, or leave the row out",
                    member=place,
                )
            if len(content) > source.limits.member_bytes:
                raise DatasetError(f"{place} has {len(content)} bytes: at most {source.limits.member_bytes} are read")
            yield Encoded(rows, place, len(content), content)
            rows += 1


def _encoded(layout: _Layout) -> Iterator[bytes | None]:
    """Row by row, so that at most one image of unknown size is in memory."""
    [name] = layout.inputs
    in_struct = pa.types.is_struct(layout.table.schema.field(name).type)
    for batch in layout.table.batches([f"{name}.{BYTES}" if in_struct else name], 1):
        value = batch.column(0)[0].as_py()
        yield value[BYTES] if in_struct and value is not None else value


def _texts(layouts: Sequence[_Layout], source: Source) -> Tensor:
    """(N, L) vocabulary indices."""
    preprocessing = resolve_text_preprocessing(source.request, [])
    samples = sum(layout.table.rows for layout in layouts)
    if samples * preprocessing.length > source.limits.memory_bytes:
        raise DatasetError(
            f"{samples} texts of {preprocessing.length} characters take more than {source.limits.memory_bytes} bytes: "
            "set a smaller dataset.length",
            field="dataset.length",
        )
    width = preprocessing.length if source.probe is None else 0
    x = torch.empty(samples, width, dtype=preprocessing.from_texts([]).dtype)
    rows = 0
    for layout in layouts:
        for texts in _joined(layout):
            if source.probe is not None:
                source.probe.see_texts(rows, texts)
                if source.probe.is_over:
                    return x
                rows += len(texts)
                continue
            x[rows : rows + len(texts)] = preprocessing.from_texts(texts)
            rows += len(texts)
    return x


def _joined(layout: _Layout) -> Iterator[list[str]]:
    """The texts in pieces."""
    start = 0
    for batch in layout.table.batches(layout.inputs, TEXT_ROWS):
        columns = [batch.column(name).to_pylist() for name in layout.inputs]
        for row, parts in enumerate(zip(*columns, strict=True)):
            if None in parts:
                place = layout.place(start + row)
                raise DatasetError(f"{place} has no text in it: leave the row out", member=place)
        yield [" ".join(parts) for parts in zip(*columns, strict=True)]
        start += batch.num_rows
