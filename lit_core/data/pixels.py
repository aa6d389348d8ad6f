"""From images and arrays of any layout to raw pixels (N, C, H, W), uint8 or float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lit_spec import Resampling

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels that an image file can give."""
CHUNK = 1024
"""Number of samples handled at a time where a copy of all would need too much memory."""
MOST_PIXELS = 1 << 26
"""Of a resized image before its middle is cut out: the shorter side of a long image may become much longer."""


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


def image_to_raw(image: Image.Image, channels: int) -> Tensor:
    """(C, H, W) uint8 in grey (1 channel) or RGB (3), upright as EXIF says. Raises ValueError.

    Converted as by `Image.convert`: palettes are resolved, alpha is dropped, grey is ITU-R 601 luma. 16-bit grey keeps
    its upper eight bits. Of several frames the first is used.
    """
    if channels not in MODES:
        raise ValueError(f"an image gives 1 or 3 channels, not {channels}: use arrays (npz or safetensors)")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("the image has floating-point pixels: save it with 8 bits, or use float arrays")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    pixels = np.array(image.convert(MODES[channels]))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("the image has pixels outside 0..65535: save it with 8 or 16 bits")
    return Image.fromarray((pixels.astype(np.uint16) >> 8).astype(np.uint8))


def to_pixels(x: Tensor) -> Tensor:
    """uint8 for integers 0..255, float32 for floating point. Raises ValueError for anything else."""
    if x.is_floating_point():
        return _finite(x.to(torch.float32))
    if x.dtype == torch.uint8:
        return x
    if x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"has dtype {dtype_name(x)}: give uint8 (0..255) or float32")
    # torch has no minimum of wide unsigned integers.
    wide = x.to(torch.int64) if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x
    low, high = (int(bound) for bound in torch.aminmax(wide))
    if low < 0 or high > 255:
        raise ValueError(
            f"has dtype {dtype_name(x)} with values {low}..{high}: integers must be 0..255 (they are divided by 255); "
            "for another range convert to float32 and scale it yourself"
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


class Unfit(ValueError):
    """Images that can't be cropped or resized as requested. `field` is the one of the request to change."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def fit(x: Tensor, geometry: Geometry) -> Tensor:
    """Images (N, C, H, W), cropped and resized; x itself, or a view, where nothing is resized. Raises Unfit."""
    x = _crop_middle(x, geometry.crop)
    if geometry.size is None:
        return x
    whole = _whole_size(x.shape[2], x.shape[3], geometry.resize or geometry.size)
    if tuple(x.shape[2:]) == tuple(whole) == tuple(geometry.size):
        return x
    return _resize(x, geometry.size, whole, Image.Resampling[geometry.resampling.name])


def _whole_size(height: int, width: int, resize: int | Sequence[int]) -> Sequence[int]:
    """Height and width of the resized image, before anything is cut off. Raises Unfit."""
    if not isinstance(resize, int):
        return resize
    # Rounded as by torchvision and timm.
    longer = int(resize * max(height, width) / min(height, width))
    if resize * longer > MOST_PIXELS:
        raise Unfit(
            "dataset.resize",
            f"is of {height}x{width} pixels, and would be of more than {MOST_PIXELS} with a shorter side of {resize}: "
            "cut it to a usual shape, or lower dataset.resize",
        )
    return (resize, longer) if height <= width else (longer, resize)


def _crop_middle(x: Tensor, side: int | None) -> Tensor:
    """The central square of images (…, H, W) as a view; x itself without a side. Raises Unfit if too small."""
    if side is None:
        return x
    height, width = x.shape[-2:]
    if side > min(height, width):
        raise Unfit(
            "dataset.crop", f"is of {height}x{width} pixels, too small to cut {side}x{side} from: lower dataset.crop"
        )
    top, left = (height - side) // 2, (width - side) // 2
    return x[..., top : top + side, left : left + side]


def _resize(x: Tensor, size: Sequence[int], whole: Sequence[int], resampling: Image.Resampling) -> Tensor:
    """(N, C, H, W) to `whole` (height, width), of which the middle is cut to `size`.

    Always Pillow, channel by channel: its fixed-point arithmetic gives the same pixels on every machine.
    """
    resized = torch.empty(*x.shape[:2], *size, dtype=x.dtype)
    # Rounded as by torchvision and timm.
    top, left = (round((length - kept) / 2) for length, kept in zip(whole, size, strict=True))
    for sample, planes in zip(resized, x, strict=True):
        for target, plane in zip(sample, planes, strict=True):
            image = Image.fromarray(np.ascontiguousarray(plane.numpy()))
            pixels = np.array(image.resize((whole[1], whole[0]), resampling))
            target.copy_(torch.from_numpy(pixels[top : top + size[0], left : left + size[1]]))
    return resized


def dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
