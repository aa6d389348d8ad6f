"""What every format's reader takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lit_core.spec import DatasetRequest

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What an uploaded data set may cost. An upload is hostile until read."""

    members: int = 2_000_000
    directory_bytes: int = 256 * MIB
    """A zip's central directory, which is read as a whole before its members can be counted."""
    member_bytes: int = 256 * MIB
    """One image file."""
    total_bytes: int = 64 * GIB
    """All members, uncompressed; and all images, decoded."""
    ratio: int = 200
    """Uncompressed to compressed size of the whole archive, looked at above `ratio_from_bytes`."""
    ratio_from_bytes: int = 256 * MIB
    image_pixels: int = 64 * MIB
    """Width times height of one image."""


@dataclass(frozen=True)
class Source:
    """An uploaded file and the teacher that it must fit."""

    path: Path
    request: DatasetRequest
    channels: int
    classes: int
    limits: Limits


@dataclass
class Raw:
    """A data set as read: x (N, C, H, W) uint8 or float32, y (N,) int64.

    `codes` (N,) int64 gives each sample's split as its place in `Split` (0 train, 1 val, 2 test); None: no splits.
    """

    x: Tensor
    y: Tensor
    codes: Tensor | None
    classes: list[str]
