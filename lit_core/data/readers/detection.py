"""Data sets of object detection, which are refused by name: they have boxes, and a classifier needs classes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import PurePosixPath

from lit_core.data.errors import DatasetError, damage_is_an_error, shown
from lit_core.data.readers.archives import Member

FILES_LOOKED_AT = 100
"""A layout has one of its files among the first of those that are not images."""
HEAD_BYTES = 1 << 16
COCO = re.compile(rb'"annotations"\s*:\s*\[|"images"\s*:\s*\[\s*\{[^{}]*"file_name"')
YOLO_BOX = re.compile(rb"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*$", re.MULTILINE)
"""A class and the box, or polygon, of an object."""
YOLO_NAMES = re.compile(rb"^(names|nc)\s*:", re.MULTILINE)
VOC = re.compile(rb"<annotation\b")
VOC_FOLDERS = frozenset(("annotations", "imagesets", "jpegimages"))


def detection_error(members: Iterable[Member]) -> DatasetError | None:
    """The refusal of a data set with one of these files; None if there is none among the first `members`.

    `members` are the files of an archive that are not images. Raises DatasetError for damage.
    """
    for member in islice(members, FILES_LOOKED_AT):
        layout = _layout(member)
        if layout is not None:
            name = shown(member.name)
            return DatasetError(
                f"the archive is a data set of object detection in the layout of {layout} ({name}), and boxes "
                "are of no use to a classifier: cut the objects out, and put their images into one folder a class",
                field="dataset.upload",
                member=name,
            )
    return None


def _layout(member: Member) -> str | None:
    path = PurePosixPath(member.name.lower())
    match path.suffix:
        case ".json" if COCO.search(_head(member)):
            return "COCO"
        case ".xml" if VOC.search(_head(member)):
            return "Pascal VOC"
        case ".txt" if not VOC_FOLDERS.isdisjoint(path.parts[:-1]):
            return "Pascal VOC"
        case ".txt" if "labels" in path.parts[:-1] or YOLO_BOX.match(_head(member)):
            return "YOLO"
        case ".yaml" | ".yml" if YOLO_NAMES.search(_head(member)):
            return "YOLO"
    return None


def _head(member: Member) -> bytes:
    with damage_is_an_error(shown(member.name), member=shown(member.name)), member.open() as file:
        return file.read(HEAD_BYTES)
