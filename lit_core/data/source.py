"""What every format's reader takes and gives."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lit_spec import Architecture, DatasetRequest, Modality, Task

MIB = 1 << 20


def _half_of_memory() -> int:
    """Bytes: what a data set may take on this machine or in this container."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory // 2


@dataclass(frozen=True)
class Limits:
    """What an uploaded data set may cost. An upload is hostile until read."""

    members: int = 2_000_000
    directory_bytes: int = 256 * MIB
    """A zip's central directory, which is read as a whole before its members can be counted."""
    member_bytes: int = 256 * MIB
    """One image file."""
    total_bytes: int = field(default_factory=_half_of_memory)
    """All members, uncompressed; and all images, decoded. Data sets are held in memory."""
    ratio: int = 200
    """Uncompressed to compressed size of the whole archive, looked at above `ratio_from_bytes`."""
    ratio_from_bytes: int = 256 * MIB
    samples: int = 50_000_000
    """Rows of a table."""
    image_pixels: int = 64 * MIB
    """Width times height of one image."""


@dataclass(frozen=True)
class Interface:
    """The teacher's inputs and outputs, which the data must fit."""

    channels: int | None
    """None for texts."""
    classes: int
    modality: Modality = Modality.IMAGE
    task: Task = Task.CLASSIFICATION
    vocabulary_size: int = 0
    """Rows of a text network's embedding."""

    @classmethod
    def of(cls, teacher: Architecture) -> Interface:
        vocabulary_size = int(teacher.options.get("vocabulary_size", 0))
        return cls(teacher.channels, teacher.classes, teacher.modality, teacher.task, vocabulary_size)


@dataclass(frozen=True)
class Source:
    """An uploaded file, or the mounted folder, and the teacher that it must fit."""

    path: Path
    request: DatasetRequest
    interface: Interface
    limits: Limits
    download: bool = False
    """Whether the operator allows that what the mounted folder lacks is downloaded into it."""

    @property
    def channels(self) -> int:
        """Of a teacher for images."""
        return self.interface.channels or 0

    @property
    def classes(self) -> int:
        return self.interface.classes


@dataclass
class Raw:
    """A data set as read.

    x: images (N, C, H, W) uint8 or float32, or texts as places in the vocabulary (N, L) uint8 or int16.
    y: (N,) int64 with -1 for a sample without a label; or attributes (N, classes) float32 of zeros and ones.
    `codes` (N,) int64 gives each sample's split as its place in `Split` (0 train, 1 val, 2 test); None: no splits.
    """

    x: Tensor
    y: Tensor
    codes: Tensor | None
    classes: list[str]
    fitted: bool = False
    """Whether images have been cropped and resized as the request says."""
