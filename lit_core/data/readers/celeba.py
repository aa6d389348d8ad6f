"""The layout of CelebA in an archive: images in one folder, and a text file with the attributes of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

import torch

from lit_core.data.errors import DatasetError, shown
from lit_core.data.pictures import MODES
from lit_core.data.readers.archives import Member, walk
from lit_core.data.readers.images import decode_all, is_ignored, is_image
from lit_core.data.source import Raw, Source
from lit_core.data.splits import SPLITS
from lit_spec import Task

ATTRIBUTES_FILE = "list_attr_celeba.txt"
PARTITION_FILE = "list_eval_partition.txt"
OTHER_FILES = frozenset(
    {"identity_celeba.txt", "list_bbox_celeba.txt", "list_landmarks_celeba.txt", "list_landmarks_align_celeba.txt"}
)
"""Other files of CelebA, in lower case; they are ignored."""
VALUES = {"1": 1.0, "-1": 0.0}
CODES = {str(code): code for code in range(len(SPLITS))}
NAMED = 40
"""Number of attributes that a message lists: all that CelebA has."""


@dataclass
class _Listing:
    images: dict[str, str] = field(default_factory=dict)
    """File names without folders, with their paths in the archive."""
    attributes: str = ""
    partition: str | None = None


def is_celeba(source: Source) -> bool:
    """Whether an archive has the file of attributes."""
    asked = source.interface.task == Task.TRANSLATION or source.request.attributes is not None
    if not asked and source.probe is None:
        return False
    return any(PurePosixPath(member.name).name == ATTRIBUTES_FILE for member in walk(source.path, source.limits))


def read_celeba(source: Source) -> Raw:
    """Images and the attributes that `dataset.attributes` chooses, as domains. Raises DatasetError."""
    if source.interface.task != Task.TRANSLATION and source.probe is None:
        raise DatasetError(
            "CelebA's attributes are domains of a generator, but the teacher is not a generator: use other data"
        )
    if source.channels not in MODES:
        raise DatasetError(
            f"images give 1 or 3 channels, but the teacher takes {source.channels}: upload arrays (npz or safetensors)"
        )
    listing = _listing(source)
    attributes, rows = _parse_attributes(listing.attributes, source)
    names = sorted(listing.images)
    y = torch.tensor([_row(name, rows) for name in names])
    codes = None if listing.partition is None else torch.tensor(_codes(names, listing.partition))
    x = decode_all({listing.images[name]: row for row, name in enumerate(names)}, source)
    return Raw(x, y, codes, attributes, fitted=True)


# --- which files there are ----------------------------------------------------------------------------------


def _listing(source: Source) -> _Listing:
    found = _Listing()
    folder: str | None = None
    for member in walk(source.path, source.limits):
        path = PurePosixPath(member.name)
        if member.is_folder or is_ignored(member.name) or path.name.lower() in OTHER_FILES:
            continue
        if path.name == ATTRIBUTES_FILE:
            found.attributes = _text(member)
        elif path.name == PARTITION_FILE:
            found.partition = _text(member)
        elif not is_image(member.name):
            raise DatasetError(
                f"{shown(member.name)} is not an image: remove all files but the images, {ATTRIBUTES_FILE}, "
                f"{PARTITION_FILE} and CelebA's other lists",
                member=shown(member.name),
            )
        else:
            folder = str(path.parent) if folder is None else folder
            if str(path.parent) != folder:
                raise DatasetError(
                    f"{shown(member.name)} is in another folder than {shown(folder)}: put all images into one folder",
                    member=shown(member.name),
                )
            if path.name in found.images:
                raise DatasetError(
                    f"{shown(member.name)} is in the archive twice: remove one", member=shown(member.name)
                )
            found.images[path.name] = member.name
    if not found.images:
        raise DatasetError("the archive has no images", field="dataset.upload")
    return found


def _text(member: Member) -> str:
    try:
        return member.read().decode()
    except UnicodeDecodeError as failure:
        raise DatasetError(
            f"{shown(member.name)} is not UTF-8: save it as UTF-8", member=shown(member.name)
        ) from failure


# --- attributes and splits ----------------------------------------------------------------------------------------


def _parse_attributes(text: str, source: Source) -> tuple[list[str], dict[str, list[float]]]:
    """The names of the chosen attributes, and ones and zeros of them for each image.

    The file has a line with the number of rows, a line with all names, then `IMAGE 1 -1 …` per image.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or lines[0].strip() != str(len(lines) - 2):
        raise _malformed(
            ATTRIBUTES_FILE,
            f"must have a line with the number of its rows, a line with the attributes' names, and the rows; its first "
            f"line is {shown(lines[0] if lines else '')!r}, and {max(len(lines) - 2, 0)} rows follow the names",
        )
    names = lines[1].split()
    columns = _chosen(names, source)
    rows: dict[str, list[float]] = {}
    for number, line in enumerate(lines[2:], start=3):
        image, *words = line.split()
        if len(words) != len(names):
            raise _malformed(
                ATTRIBUTES_FILE,
                f"has {len(words)} values in line {number}, but {len(names)} attributes: give a value for each",
            )
        if image in rows:
            raise _malformed(ATTRIBUTES_FILE, f"has {shown(image)} twice: remove one of the rows")
        rows[image] = [_value(words[column], number) for column in columns]
    return [names[column] for column in columns], rows


def _chosen(names: list[str], source: Source) -> list[int]:
    """The columns of the generator's domains, in its order."""
    wanted = source.request.attributes if source.probe is None else names
    known = f"the archive's attributes are {', '.join(shown(name) for name in names[:NAMED])}"
    if wanted is None:
        raise DatasetError(
            f"say which {source.classes} attributes are the teacher's domains, in its order; {known}",
            field="dataset.attributes",
        )
    if source.request.class_order is not None:
        raise DatasetError("dataset.attributes gives the order already: leave it out", field="dataset.class_order")
    for name in wanted:
        if name not in names:
            raise DatasetError(f"there is no attribute {shown(name)!r}; {known}", field="dataset.attributes")
    if source.classes not in (None, len(wanted)):
        raise DatasetError(
            f"{len(wanted)} attributes are named, but the teacher has {source.classes} domains: name one for each",
            field="dataset.attributes",
        )
    return [names.index(name) for name in wanted]


def _value(word: str, line: int) -> float:
    if word not in VALUES:
        raise _malformed(ATTRIBUTES_FILE, f"has the value {shown(word)!r} in line {line}: it must be 1 or -1")
    return VALUES[word]


def _row(image: str, rows: dict[str, list[float]]) -> list[float]:
    if image not in rows:
        raise DatasetError(
            f"{shown(image)} has no row in {ATTRIBUTES_FILE}: add one, or remove the image", member=shown(image)
        )
    return rows[image]


def _codes(images: list[str], text: str) -> list[int]:
    """Each image's split: 0 is training, 1 validation, 2 test."""
    rows = {words[0]: words[1] for line in text.splitlines() if len(words := line.split()) == 2}
    for image in images:
        if rows.get(image) not in CODES:
            raise _malformed(
                PARTITION_FILE, f"must have a line `{shown(image)} 0`, 1 or 2, for training, validation or test"
            )
    return [CODES[rows[image]] for image in images]


def _malformed(file: str, what: str) -> DatasetError:
    return DatasetError(f"{file} {what}", member=file)
