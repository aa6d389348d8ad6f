"""From the bytes of an image file to a picture of the network's size, with Pillow alone.

Processes that decode images import this, so nothing here may import torch or pydantic.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels that an image file can give."""
MOST_PIXELS = 1 << 26
"""Of a resized image before its middle is cut out: the shorter side of a long image may become much longer."""


class Unfit(ValueError):
    """Images that can't be cropped or resized as requested. `field` is the one of the request to change."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Frame:
    """How pictures get their size; the fields are those of `lit_spec.Preprocessing`."""

    crop: int | None
    resize: int | tuple[int, int] | None
    size: tuple[int, int] | None
    resampling: Image.Resampling


def decoded(content: bytes, channels: int, most_pixels: int) -> Image.Image:
    """The picture in an image file, as `to_picture` makes it. Raises what Pillow raises, and ValueError."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > most_pixels:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            return to_picture(image, channels)


def to_picture(image: Image.Image, channels: int) -> Image.Image:
    """In grey (1 channel) or RGB (3), upright as EXIF says. Raises ValueError.

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
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def _eight_bits(image: Image.Image) -> Image.Image:
    import numpy as np  # few images need it

    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("the image has pixels outside 0..65535: save it with 8 or 16 bits")
    return Image.fromarray((pixels.astype(np.uint16) >> 8).astype(np.uint8))


def framed(image: Image.Image, frame: Frame) -> Image.Image:
    """Cropped and resized. Raises Unfit.

    Pillow's fixed-point arithmetic gives the same pixels on every machine, whether the channels are resized together or
    one by one.
    """
    if frame.crop is not None:
        top, left = middle_of(image.height, image.width, frame.crop)
        image = image.crop((left, top, left + frame.crop, top + frame.crop))
    if frame.size is None:
        return image
    height, width = whole_size(image.height, image.width, frame.resize or frame.size)
    if (image.height, image.width) == (height, width) == tuple(frame.size):
        return image
    image = image.resize((width, height), frame.resampling)
    top, left = cut_of((height, width), frame.size)
    return image.crop((left, top, left + frame.size[1], top + frame.size[0]))


def whole_size(height: int, width: int, resize: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of the resized image, before anything is cut off. Raises Unfit."""
    if not isinstance(resize, int):
        return resize[0], resize[1]
    # Rounded as by torchvision and timm.
    longer = int(resize * max(height, width) / min(height, width))
    if resize * longer > MOST_PIXELS:
        raise Unfit(
            "dataset.resize",
            f"is of {height}x{width} pixels, and would be of more than {MOST_PIXELS} with a shorter side of {resize}: "
            "cut it to a usual shape, or lower dataset.resize",
        )
    return (resize, longer) if height <= width else (longer, resize)


def middle_of(height: int, width: int, side: int) -> tuple[int, int]:
    """Top and left of the central square. Raises Unfit if the image is too small."""
    if side > min(height, width):
        raise Unfit(
            "dataset.crop", f"is of {height}x{width} pixels, too small to cut {side}x{side} from: lower dataset.crop"
        )
    return (height - side) // 2, (width - side) // 2


def cut_of(whole: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    """Top and left of the middle that is kept of a resized image, rounded as by torchvision and timm."""
    return round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2)
