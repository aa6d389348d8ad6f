"""WebDataset: an archive in which a sample is the files with one key, an image KEY.jpg and its label KEY.cls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath

import numpy as np
import torch

from lit_core.data.errors import DatasetError, shown
from lit_core.data.labels import output_names
from lit_core.data.pictures import MODES
from lit_core.data.readers.archives import Member, walk
from lit_core.data.readers.images import decode_all, is_ignored, is_image
from lit_core.data.readers.unlabelled import INTEGER, OutputLabels
from lit_core.data.source import Raw, Source
from lit_core.data.splits import NAMES
from lit_spec.shown import some_shown

LABEL = "cls"
LABEL_BYTES = 64
FILES_LOOKED_AT = 100
"""The files of a sample follow one another, so that a label is among the first files."""


@dataclass
class _Listing:
    images: dict[str, str] = field(default_factory=dict)
    """The names of the image files by their keys."""
    labels: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The names of the label files, and the labels, by their keys."""
    unused: dict[str, None] = field(default_factory=dict)
    """The extensions of other files."""


def is_webdataset(source: Source) -> bool:
    """Whether one of the first files in an archive is a label."""
    return any(_key(member)[1] == LABEL for member in islice(_files(source), FILES_LOOKED_AT))


def read_webdataset(source: Source) -> Raw:
    """Splits are told by a folder train, val or test that the keys begin with. Raises DatasetError."""
    if source.channels not in MODES:
        raise DatasetError(
            f"images give 1 or 3 channels, but the teacher takes {source.channels}: upload arrays (npz or safetensors)"
        )
    found = _listing(source)
    codes = _codes(found.images)
    keys = sorted(found.images, key=lambda key: (codes[key] or 0, key))
    labels = OutputLabels(source)
    values = np.array([found.labels[key][1] for key in keys], dtype=np.int64)
    y = torch.from_numpy(labels.take(values, lambda row: shown(found.labels[keys[row]][0])))
    split = None if codes[keys[0]] is None else torch.tensor([codes[key] for key in keys])
    others = some_shown(f".{extension}" for extension in found.unused)
    unused = [f"files of the samples that are not used: {others}"] if found.unused else []
    notes = [*unused, *labels.notes()]
    x = decode_all({found.images[key]: row for row, key in enumerate(keys)}, source)
    classes = list(source.request.class_order or output_names(y, source.classes))
    return Raw(x, y, split, classes, numbered=True, fitted=True, notes=notes)


def _files(source: Source) -> Iterator[Member]:
    return (member for member in walk(source.path, source.limits) if not (member.is_folder or is_ignored(member.name)))


def _key(member: Member) -> tuple[str, str]:
    """The key and the extension, which begins with the first dot of the file's name."""
    path = PurePosixPath(member.name)
    stem, _, extension = path.name.partition(".")
    return str(path.parent / stem), extension.lower()


def _listing(source: Source) -> _Listing:
    """The files of each sample, which has an image and a label. Raises DatasetError."""
    found = _Listing()
    for member in _files(source):
        name = shown(member.name)
        key, extension = _key(member)
        if extension == LABEL:
            if key in found.labels:
                raise DatasetError(f"{name} occurs twice in the archive: give one label a sample", member=name)
            found.labels[key] = member.name, _label(member)
        elif "." not in extension and is_image(member.name):
            if key in found.images:
                raise DatasetError(
                    f"{name} and {shown(found.images[key])} are images of one sample: give one a sample", member=name
                )
            found.images[key] = member.name
        else:
            found.unused[extension] = None
    for key, (name, _) in found.labels.items():
        if key not in found.images:
            raise DatasetError(
                f"{shown(name)} is the label of no image: add {shown(key)}.jpg, or remove it", member=shown(name)
            )
    for key, name in found.images.items():
        if key not in found.labels:
            raise DatasetError(
                f"{shown(name)} is an image without a label: add {shown(key)}.{LABEL} with an integer",
                member=shown(name),
            )
    return found


def _label(member: Member) -> int:
    text = member.read().decode(errors="replace").strip() if member.size <= LABEL_BYTES else ""
    if not INTEGER.fullmatch(text):
        name = shown(member.name)
        raise DatasetError(
            f"{name} holds no integer: write the index of the teacher's output as a decimal number", member=name
        )
    return int(text)


def _codes(images: dict[str, str]) -> dict[str, int | None]:
    """The split of each key. Raises DatasetError if only some are in one."""
    folders = {key: PurePosixPath(key.lower()).parts[:-1] for key in images}
    codes = {key: next((NAMES[part] for part in parts if part in NAMES), None) for key, parts in folders.items()}
    outside = next((key for key, code in codes.items() if code is None), None)
    if outside is not None and any(code is not None for code in codes.values()):
        name = shown(images[outside])
        raise DatasetError(
            f"{name} belongs to no split, but other samples do: put it into the folder train, val or test", member=name
        )
    return codes
