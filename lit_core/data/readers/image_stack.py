"""Many images of one size, put into one tensor one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_core.data.errors import DatasetError, shown
from lit_core.data.pixels import Unfit, fit
from lit_core.data.source import Limits, Source


class ImageStack:
    """Crops and resizes as requested. If the request gives no size, the first image sets it."""

    def __init__(self, samples: int, source: Source) -> None:
        self._samples = samples
        self._source = source
        self._first = ""
        self._x: Tensor | None = None

    def put(self, row: int, name: str, pixels: Tensor) -> None:
        """Write pixels (C, H, W) uint8 to their row. `name` is for error messages. Raises DatasetError."""
        if self._source.probe is not None:
            self._source.probe.see_image(row, pixels)
            return
        request = self._source.request
        try:
            pixels = fit(pixels[None], request)[0]
        except Unfit as failure:
            raise DatasetError(f"{shown(name)} {failure}", field=failure.field, member=shown(name)) from failure
        if self._x is None:
            self._x, self._first = _allocate(self._samples, pixels, self._source.limits), name
        if pixels.shape != self._x.shape[1:]:
            raise DatasetError(
                f"{shown(name)} has {_size(pixels)} pixels (height x width), but {shown(self._first)} has "
                f"{_size(self._x)}: set dataset.size to resize all images",
                field="dataset.size",
                member=shown(name),
            )
        self._x[row] = pixels

    @property
    def x(self) -> Tensor:
        """(N, C, H, W) uint8. Raises ValueError before the first image."""
        if self._source.probe is not None:
            return torch.empty(self._samples, 0)
        if self._x is None:
            raise ValueError("no image was put into the stack")
        return self._x


def _allocate(samples: int, pixels: Tensor, limits: Limits) -> Tensor:
    if samples * pixels.numel() > limits.total_bytes:
        raise DatasetError(
            f"{samples} images of {_size(pixels)} take {samples * pixels.numel()} bytes decoded, "
            f"more than {limits.total_bytes}: set a smaller dataset.size",
            field="dataset.size",
        )
    return torch.empty(samples, *pixels.shape, dtype=torch.uint8)


def _size(x: Tensor) -> str:
    return f"{x.shape[-2]}x{x.shape[-1]}"
