"""Inspects the upload of a data set, whatever teacher it is for, with the readers that jobs use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lit_core.data.doubts import alike, nearly_all_different, of_one_class, repeated
from lit_core.data.errors import DatasetError, shown
from lit_core.data.labels import NO_LABEL
from lit_core.data.probe import Probe
from lit_core.data.readers.formats import PARQUET, read_as, recognise
from lit_core.data.source import Interface, Limits, Raw, Source
from lit_core.data.splits import SPLITS, TRAIN
from lit_spec import DatasetRequest, Split
from lit_spec.dataset_inspection import MOST_CLASSES_SHOWN, DatasetInspection, LabelKind, Need, SplitContents
from lit_spec.shown import some_shown

SECONDS = 20.0
"""A request for a job waits for the inspection. Of a large data set a part is looked at."""
UPLOAD = "dataset.upload"
OF_THE_UPLOAD = (None, "dataset", UPLOAD)
"""The fields of errors that no request can mend."""


def inspect_dataset(path: Path, limits: Limits | None = None, seconds: float = SECONDS) -> DatasetInspection:
    """What the file contains. Raises DatasetError for what no request could make usable."""
    probe = Probe(seconds)
    request = DatasetRequest(upload=path.name, length=8)
    source = Source(path, request, Interface(channels=3, classes=None), limits or Limits(), probe=probe, trains=False)
    known, modalities = recognise(source)
    source = replace(source, interface=replace(source.interface, modality=modalities[0]))
    try:
        raw = read_as(known, source)
        probe.check()
    except DatasetError as failure:
        if failure.field in OF_THE_UPLOAD and known is not PARQUET:
            raise
        # Where there are columns, a request may name others, so that the file may be of use.
        field = UPLOAD if failure.field is None or failure.field in OF_THE_UPLOAD else failure.field
        need = Need(field=field, why=failure.detail)
        return DatasetInspection(
            format=known.plain_name, modalities=modalities, label_kind=LabelKind.UNKNOWN, needs=need
        )
    splits = _splits(raw)
    return DatasetInspection(
        format=known.plain_name,
        modalities=[*probe.modalities, *modalities[1:]] or modalities,
        label_kind=_kind(raw),
        classes=[shown(name) for name in raw.classes[:MOST_CLASSES_SHOWN]],
        number_of_classes=len(raw.classes),
        splits={split: _contents(y, len(raw.classes)) for split, y in splits.items()},
        images=probe.images(),
        texts=probe.texts(),
        looked_at=probe.looked_at,
        skipped=[shown(name) for name in probe.skipped],
        notes=[*raw.notes, *_doubts(raw, splits, probe)],
    )


def _kind(raw: Raw) -> LabelKind:
    if raw.y.ndim == 2:
        return LabelKind.DOMAINS if raw.numbered else LabelKind.ATTRIBUTES
    if not bool((raw.y != NO_LABEL).any()):
        return LabelKind.NONE
    return LabelKind.NUMBERS if raw.numbered else LabelKind.NAMES


def _splits(raw: Raw) -> dict[Split, Tensor]:
    """The labels of each split that the data has."""
    if raw.codes is None:
        return {Split.TRAIN: raw.y}
    return {split: raw.y[raw.codes == code] for code, split in enumerate(SPLITS) if bool((raw.codes == code).any())}


def _contents(y: Tensor, classes: int) -> SplitContents:
    if y.ndim == 2:
        counts, labelled = y.sum(0).long(), len(y)
    else:
        known = y[y != NO_LABEL]
        counts, labelled = torch.bincount(known, minlength=classes), len(known)
    return SplitContents(samples=len(y), labelled=labelled, counts=counts[:MOST_CLASSES_SHOWN].tolist())


def _doubts(raw: Raw, splits: Mapping[Split, Tensor], probe: Probe) -> list[str]:
    notes = alike(raw.classes)
    if _kind(raw) == LabelKind.NAMES:
        notes += nearly_all_different(int((raw.y != NO_LABEL).sum()), raw.classes)
    codes = torch.full((len(raw.y),), TRAIN) if raw.codes is None else raw.codes
    hashes: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for row, value in probe.hashes.items():
        hashes[SPLITS[int(codes[row])]].append(value)
    for split, y in splits.items():
        if split != Split.TRAIN:
            notes += repeated(split, hashes[split], hashes[Split.TRAIN])
        notes += of_one_class(split, y, raw.classes)
    if _kind(raw) == LabelKind.NUMBERS:
        found = set(torch.unique(raw.y).tolist())
        missing = [name for number, name in enumerate(raw.classes) if number not in found]
        notes += [f"no sample has the label {some_shown(missing)}"] if missing else []
    return notes
