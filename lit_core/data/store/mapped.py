"""Large arrays that are read from the uploaded file itself, because their rows lie in it as the network takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lit_core.data.source import Source
from lit_core.data.store import decoding
from lit_core.data.store.rows import RowFile, StoredRows
from lit_spec import Modality

DTYPES = (torch.uint8, torch.float32)


@dataclass(frozen=True)
class ArrayPlace:
    """An array in C order, uncompressed, in a file."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def mapped_images(place: ArrayPlace, source: Source) -> StoredRows | None:
    """Images (N, C, H, W) from an array in one of the layouts of `to_channels_first`. None for what is small, is not of
    images, or has to be converted or resized: that is read into memory."""
    shape, channels = place.shape, source.interface.channels
    size = math.prod(shape) * place.dtype.itemsize
    wanted = source.probe is None and source.interface.modality == Modality.IMAGE and place.dtype in DTYPES
    if not wanted or size <= decoding.IN_MEMORY_BYTES:
        return None
    if len(shape) == 4 and shape[1] == channels:
        row, channels_last = shape[1:], False
    elif len(shape) == 4 and shape[3] == channels:
        row, channels_last = shape[1:], True
    elif len(shape) == 3 and channels == 1:
        row, channels_last = (1, *shape[1:]), False
    else:
        return None
    if not _is_of_size(row[:2] if channels_last else row[1:], source):
        return None
    return StoredRows(RowFile(place.path, place.offset, row, place.dtype, None), np.arange(shape[0]), channels_last)


def _is_of_size(size: tuple[int, ...], source: Source) -> bool:
    request = source.request
    asked = [side for side in (request.size, request.resize) if side is not None]
    return request.crop is None and all(side == list(size) for side in asked)
