"""From images and arrays of any layout to raw pixels (N, C, H, W), uint8 or float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels that an image file can give."""
CHUNK = 1024
"""Number of samples handled at a time where a copy of all would need too much memory."""


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


def crop_middle(x: Tensor, side: int | None) -> Tensor:
    """The central square of images (…, H, W) as a view; x itself without a side. Raises ValueError if too small."""
    if side is None:
        return x
    height, width = x.shape[-2:]
    if side > min(height, width):
        raise ValueError(f"is of {height}x{width} pixels, too small to cut {side}x{side} from: lower dataset.crop")
    top, left = (height - side) // 2, (width - side) // 2
    return x[..., top : top + side, left : left + side]


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, H, W) to `size` (height, width) with Pillow's antialiasing bilinear filter; x itself if it has that size.

    Always Pillow, channel by channel: its fixed-point arithmetic gives the same pixels on every machine.
    """
    height, width = size
    if tuple(x.shape[2:]) == (height, width):
        return x
    resized = torch.empty(*x.shape[:2], height, width, dtype=x.dtype)
    for sample, planes in zip(resized, x, strict=True):
        for target, plane in zip(sample, planes, strict=True):
            image = Image.fromarray(np.ascontiguousarray(plane.numpy()))
            target.copy_(torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BILINEAR))))
    return resized


def dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
