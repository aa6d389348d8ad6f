"""From images and arrays of any layout to raw pixels (N, C, H, W), uint8 or float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_core.data.pictures import Frame, cut_of, middle_of, to_picture, whole_size
from lit_spec import Resampling

CHUNK = 1024
"""Number of samples handled at a time where a copy of all would need too much memory."""


class Geometry(Protocol):
    """How images get the network's size; the fields of `lit_spec.Preprocessing`."""

    @property
    def crop(self) -> int | None: ...
    @property
    def resize(self) -> int | list[int] | None: ...
    @property
    def size(self) -> list[int] | None: ...
    @property
    def resampling(self) -> Resampling: ...


def frame_of(geometry: Geometry) -> Frame:
    """For pictures."""
    resize = geometry.resize if isinstance(geometry.resize, int | None) else (geometry.resize[0], geometry.resize[1])
    size = None if geometry.size is None else (geometry.size[0], geometry.size[1])
    return Frame(geometry.crop, resize, size, Image.Resampling[geometry.resampling.name])


def image_to_raw(image: Image.Image, channels: int) -> Tensor:
    """(C, H, W) uint8 of `to_picture`. Raises ValueError."""
    return picture_to_raw(to_picture(image, channels))


def picture_to_raw(picture: Image.Image) -> Tensor:
    """(C, H, W) uint8 from grey or RGB."""
    pixels = np.array(picture)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def to_pixels(x: Tensor) -> Tensor:
    """uint8 for integers 0..255, float32 for floating point. Raises ValueError for anything else."""
    if x.is_floating_point():
        return _finite(x.to(torch.float32))
    if x.dtype == torch.uint8:
        return x
    if x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"has dtype {dtype_name(x.dtype)}: give uint8 (0..255) or float32")
    # torch has no minimum of wide unsigned integers.
    wide = x.to(torch.int64) if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x
    low, high = (int(bound) for bound in torch.aminmax(wide))
    if low < 0 or high > 255:
        raise ValueError(
            f"has dtype {dtype_name(x.dtype)} with values {low}..{high}: integers must be 0..255 (they are divided by "
            "255); for another range convert to float32 and scale it yourself"
        )
    return x.to(torch.uint8)


def _finite(x: Tensor) -> Tensor:
    low, high = torch.aminmax(x)  # both are NaN if any value is; this needs no mask of x's size
    if torch.isfinite(low) and torch.isfinite(high):
        return x
    sample = next(
        start + int(chunk.flatten(1).isfinite().all(dim=1).logical_not().nonzero()[0])
        for start, chunk in zip(range(0, len(x), CHUNK), torch.split(x, CHUNK), strict=True)
        if not chunk.isfinite().all()
    )
    raise ValueError(f"has values that are not finite (as float32), first in sample {sample}: replace them")


def to_channels_first(x: Tensor, channels: int) -> Tensor:
    """(N, C, H, W) from (N, H, W), (N, C, H, W) or (N, H, W, C), as a view. Raises ValueError.

    The axis whose length is the teacher's number of channels decides the layout; if both fit, it is (N, C, H, W).
    """
    shape = tuple(x.shape)
    if x.ndim == 3 and channels == 1:
        return x.unsqueeze(1)
    if x.ndim == 4 and shape[1] == channels:
        return x
    if x.ndim == 4 and shape[3] == channels:
        return x.permute(0, 3, 1, 2)
    right = f"(N, {channels}, H, W) or (N, H, W, {channels})" + (" or (N, H, W)" if channels == 1 else "")
    raise ValueError(f"has the shape {shape}, but the teacher takes {channels} channels: it must be {right}")


def fit(x: Tensor, geometry: Geometry) -> Tensor:
    """Images (N, C, H, W), cropped and resized; x itself, or a view, where nothing is resized. Raises Unfit."""
    x = _crop_middle(x, geometry.crop)
    if geometry.size is None:
        return x
    whole = whole_size(x.shape[2], x.shape[3], geometry.resize or geometry.size)
    if tuple(x.shape[2:]) == tuple(whole) == tuple(geometry.size):
        return x
    return _resize(x, geometry.size, whole, Image.Resampling[geometry.resampling.name])


def _crop_middle(x: Tensor, side: int | None) -> Tensor:
    """The central square of images (…, H, W) as a view; x itself without a side. Raises Unfit if too small."""
    if side is None:
        return x
    top, left = middle_of(x.shape[-2], x.shape[-1], side)
    return x[..., top : top + side, left : left + side]


def _resize(x: Tensor, size: Sequence[int], whole: Sequence[int], resampling: Image.Resampling) -> Tensor:
    """(N, C, H, W) to `whole` (height, width), of which the middle is cut to `size`.

    Always Pillow, channel by channel: its fixed-point arithmetic gives the same pixels on every machine.
    """
    resized = torch.empty(*x.shape[:2], *size, dtype=x.dtype)
    top, left = cut_of(whole, size)
    for sample, planes in zip(resized, x, strict=True):
        for target, plane in zip(sample, planes, strict=True):
            image = Image.fromarray(np.ascontiguousarray(plane.numpy()))
            pixels = np.array(image.resize((whole[1], whole[0]), resampling))
            target.copy_(torch.from_numpy(pixels[top : top + size[0], left : left + size[1]]))
    return resized


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
