"""Input and output of the readers of all formats."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lit_core.data.probe import Probe
from lit_core.data.store.entry import DataStore
from lit_core.data.store.rows import Rows
from lit_spec import Architecture, DatasetRequest, Modality, Task

MIB = 1 << 20


def _half_of_memory() -> int:
    """Bytes that a data set may need on this machine or in this container."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory // 2


@dataclass(frozen=True)
class Limits:
    """Limits of an uploaded data set, which may be hostile."""

    members: int = 2_000_000
    directory_bytes: int = 256 * MIB
    """Size of a zip's central directory, which is read as a whole before its members can be counted."""
    member_bytes: int = 256 * MIB
    """Size of one image file."""
    total_bytes: int = field(default_factory=_half_of_memory)
    """Uncompressed size of all members, and of all decoded images."""
    ratio: int = 200
    """Uncompressed to compressed size of the whole archive; checked above `ratio_from_bytes`."""
    ratio_from_bytes: int = 256 * MIB
    samples: int = 50_000_000
    """Number of rows of a table."""
    image_pixels: int = 64 * MIB
    """Width times height of one image."""

    @property
    def memory_bytes(self) -> int:
        """Of samples that are kept in memory."""
        return min(self.total_bytes, _half_of_memory())


def _unwatched(_done: int, _images: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Interface:
    """The teacher's inputs and outputs, which the data must match."""

    channels: int | None
    """None for texts."""
    classes: int | None
    """None: as many as the data has."""
    modality: Modality = Modality.IMAGE
    task: Task = Task.CLASSIFICATION
    vocabulary_size: int = 0
    """Number of rows of a text network's embedding."""

    @classmethod
    def of(cls, teacher: Architecture) -> Interface:
        vocabulary_size = int(teacher.options.get("vocabulary_size", 0))
        return cls(teacher.channels, teacher.classes, teacher.modality, teacher.task, vocabulary_size)


@dataclass(frozen=True)
class Source:
    """An uploaded file, or the mounted folder, and the teacher that the data must match."""

    path: Path
    request: DatasetRequest
    interface: Interface
    limits: Limits
    download: bool = False
    """Whether the operator allows downloads into the mounted folder."""
    probe: Probe | None = None
    """Given: the reader shows it the samples, and keeps only their labels."""
    trains: bool = True
    """Whether there must be a training split, and a sample of every class."""
    store: DataStore | None = None
    """Where decoded images are kept for other jobs. None: they are kept only as long as this data set is used."""
    watch: Callable[[int, int], None] = _unwatched
    """Called while images are decoded, with their number so far and that of all; may raise Stopped."""

    @property
    def channels(self) -> int:
        """Only for a teacher of images."""
        return self.interface.channels or 0

    @property
    def classes(self) -> int | None:
        return self.interface.classes


@dataclass
class Raw:
    """A data set as read.

    x: images (N, C, H, W) uint8 or float32, or texts as vocabulary indices (N, L) uint8 or int16; (N, 0) with a probe.
    y: (N,) int64 with -1 for a sample without a label; or attributes (N, classes) float32 of zeros and ones.
    `codes` (N,) int64 gives each sample's split as its index in `Split` (0 train, 1 val, 2 test); None: no splits.
    """

    x: Rows
    y: Tensor
    codes: Tensor | None
    classes: list[str]
    numbered: bool = False
    """Whether the labels are numbers of outputs, so that some outputs may have no sample."""
    fitted: bool = False
    """Whether the images are already cropped and resized as requested."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of how it was read."""
