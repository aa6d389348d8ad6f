"""How `litc inspect` shows a data set."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from lit_client.models import Upload
from lit_spec.dataset_inspection import DatasetInspection, ImageContents, LabelKind, Need

CLASSES_SHOWN = 20
FILES_SHOWN = 5


def dataset_table(upload: Upload, inspection: DatasetInspection) -> Group:
    """What the data set contains, the samples of each split and class, and what may be wrong."""
    title = f"{upload.filename}: {_described(inspection)} ({upload.id})"
    parts: list[str | Table] = [title]
    if inspection.splits:
        parts.append(_splits(inspection))
    if inspection.skipped:
        parts.append(f"Skipped: {_some(inspection.skipped, FILES_SHOWN)}.")
    if inspection.needs is not None:
        parts.append(f"No job can use it without {_wanted(inspection.needs)}: {inspection.needs.why}.")
    parts += [f"Note: {note}." for note in inspection.notes]
    return Group(*parts)


def _wanted(need: Need) -> str:
    return "dataset.columns that name others" if need.field == "dataset.upload" else need.field


def _described(found: DatasetInspection) -> str:
    parts = [found.format]
    if found.images is not None:
        parts.append(_images(found.images))
    if found.texts is not None:
        texts = found.texts
        parts.append(f"texts of {texts.shortest} to {texts.longest} characters, median {texts.median}")
    if found.label_kind == LabelKind.NONE:
        parts.append("no labels")
    elif found.number_of_classes:
        what = "attributes" if found.label_kind == LabelKind.ATTRIBUTES else "classes"
        parts.append(f"{found.number_of_classes} {what}")
    if 0 < found.looked_at < found.samples:
        parts.append(f"{found.looked_at:,} of {found.samples:,} samples looked at")
    return ", ".join(parts)


def _images(images: ImageContents) -> str:
    sides = [str(low) if low == high else f"{low} to {high}" for low, high in (images.height[:2], images.width[:2])]
    mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (images.mean, images.std))
    colour = "grey images" if images.grey else "images"
    return f"{colour} of {sides[0]} x {sides[1]} pixels (height x width), mean {mean}, std {std}"


def _splits(found: DatasetInspection) -> Table:
    table = Table("class", *found.splits)
    for column in table.columns[1:]:
        column.justify = "right"
    for place, name in enumerate(found.classes[:CLASSES_SHOWN]):
        table.add_row(name, *(f"{split.counts[place]:,}" for split in found.splits.values()))
    if found.number_of_classes > CLASSES_SHOWN:
        table.add_row(f"and {found.number_of_classes - CLASSES_SHOWN:,} more", *("" for _ in found.splits))
    unlabelled = [split.samples - split.labelled for split in found.splits.values()]
    if any(unlabelled):
        table.add_row("no label", *(f"{count:,}" for count in unlabelled))
    table.add_section()
    table.add_row("samples", *(f"{split.samples:,}" for split in found.splits.values()))
    return table


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
