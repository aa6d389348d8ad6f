"""How raw pixels become the network's input. It is resolved once and stored with the model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_core.data.pictures import MODES
from lit_core.data.pixels import fit, image_to_raw, to_channels_first, to_pixels
from lit_core.data.store.rows import Rows, StoredRows
from lit_spec import Constants, DatasetRequest, LibraryPreprocessing, Resampling, SpecModel

LEAST_STD = 1e-8
DOUBLES = 1 << 23
"""Number of values that are summed in float64 at a time: 64 MiB."""


class ImagePreprocessing(SpecModel):
    """Every value explicit: crop, resize, cut to `size`, divide by `scale`, subtract `mean`, divide by `std`."""

    kind: Literal["image"] = "image"
    crop: int | None = None
    """Side of the square that is cut from the centre of an image before resizing."""
    resize: int | list[int] | None = None
    """Length of the shorter side to which an image is resized with its aspect ratio kept, or height and width, before
    `size` is cut from its centre. None: it is resized to `size` itself."""
    size: list[int]
    """Height and width in pixels."""
    channels: int
    scale: float
    """255 if the raw data is uint8, 1 if it is floating point."""
    mean: list[float]
    """Per channel, after scaling."""
    std: list[float]
    class_order: list[str]
    """The classes in the order of the network's outputs."""
    resampling: Resampling = Resampling.BILINEAR
    """Pillow's filter for resizing."""

    def apply(self, x: Tensor) -> Tensor:
        """Raw (B, C, H, W), uint8 or float32, to the network's input in float32 on x's device. Raises ValueError."""
        if tuple(x.shape[1:]) != (self.channels, *self.size):
            raise ValueError(
                f"x has the shape {tuple(x.shape)}, not (B, {self.channels}, {self.size[0]}, {self.size[1]})"
            )
        mean, std = _constants(tuple(self.mean), tuple(self.std), x.device)
        return ((x.detach().to(torch.float32) / self.scale - mean) / std).contiguous()

    def from_image(self, image: Image.Image | NDArray[Any]) -> Tensor:
        """One image as raw pixels (1, C, H, W) for `apply`. Raises ValueError.

        A Pillow image or a uint8 array (H, W) or (H, W, 3 or 4) is converted to grey or RGB; any other array must be
        (H, W) for one channel, (C, H, W) or (H, W, C), with the pixels' type and range as in the training data.
        """
        if isinstance(image, np.ndarray) and not self._is_image(image):
            raw = to_pixels(to_channels_first(torch.from_numpy(np.array(image, order="C"))[None], self.channels))
            self._check_dtype(raw)
        else:
            picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            raw = image_to_raw(picture, self.channels)[None]
            self._check_dtype(raw)
        return fit(raw, self)

    def to_images(self, x: Tensor) -> list[Image.Image]:
        """The output of a generator, (B, C, H, W) in the range of its input, as pictures. Raises ValueError.

        `mean` and `std` turn values into shares of the full brightness, which are clamped to black and white.
        """
        if self.channels not in MODES:
            raise ValueError(f"a picture has 1 or 3 channels, not {self.channels}: call the model itself")
        planes = self.to_pixels(x).cpu().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(image.squeeze(2) if self.channels == 1 else image) for image in planes]

    def to_pixels(self, x: Tensor) -> Tensor:
        """The same as (B, C, H, W) uint8, on x's device."""
        mean, std = _constants(tuple(self.mean), tuple(self.std), x.device)
        return (255 * (x.detach().float() * std + mean)).round().clamp(0, 255).to(torch.uint8)

    def sample(self, batch: int) -> Tensor:
        """An input (B, C, H, W) of zeros, for counting FLOPs and measuring latency."""
        return torch.zeros(batch, self.channels, *self.size)

    def random(self, batch: int, generator: torch.Generator) -> Tensor:
        """Preprocessed inputs of pixels drawn uniformly from [0, 1], like the random images of the reference."""
        pixels = torch.rand(batch, self.channels, *self.size, generator=generator) * self.scale
        return self.apply(pixels)

    def _is_image(self, array: NDArray[Any]) -> bool:
        pictures = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
        return array.dtype == np.uint8 and self.channels in MODES and pictures

    def _check_dtype(self, raw: Tensor) -> None:
        if self.scale == 255 and raw.dtype != torch.uint8:
            raise ValueError("the network was trained on uint8 pixels: give an image or integers 0..255")
        if self.scale == 1 and raw.dtype == torch.uint8:
            raise ValueError("the network was trained on floats: give a float array in the training data's range")


def resolve_image_preprocessing(request: DatasetRequest, train: Rows, class_order: list[str]) -> ImagePreprocessing:
    """Take missing values from the data. `train` (N, C, H, W) is the resized raw training split."""
    scale = 255.0 if train.dtype == torch.uint8 else 1.0
    mean, std = (
        measured(train, scale) if Constants.DATA in (request.mean, request.std) else ([], [])
    )  # if both are given, no pass over the data is needed
    return ImagePreprocessing(
        crop=request.crop,
        resize=request.resize,
        size=list(train.shape[2:]),
        channels=train.shape[1],
        scale=scale,
        mean=mean if isinstance(request.mean, str) else request.mean,
        std=std if isinstance(request.std, str) else request.std,
        class_order=class_order,
        resampling=request.resampling,
    )


def published_preprocessing(library: LibraryPreprocessing, class_order: list[str]) -> ImagePreprocessing:
    """A library's own preprocessing of uint8 pixels."""
    given = library.model_dump(exclude={"weights"})
    return ImagePreprocessing(**given, channels=len(library.mean), scale=255, class_order=class_order)


def measured(x: Rows, scale: float) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of x / scale, in float64, kept to 7 digits.

    Seven digits fit into float32 and are the same on every machine, whatever the order of the sums. A channel of
    (almost) constant value gets the standard deviation 1, so that nothing is divided by zero.
    """
    mean, variance = _stored_moments(x) if isinstance(x, StoredRows) and x.statistics is not None else _moments(x)
    std = variance.sqrt() / scale
    std[std < LEAST_STD] = 1.0
    return [_seven_digits(v) for v in (mean / scale).tolist()], [_seven_digits(v) for v in std.tolist()]


def _moments(x: Rows) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel."""
    values, step = x.shape.numel() // x.shape[1], max(1, DOUBLES // x.shape[1:].numel())

    def chunks() -> Iterator[Tensor]:
        return (x[start : start + step].double() for start in range(0, len(x), step))

    mean = torch.stack([chunk.sum(dim=(0, 2, 3)) for chunk in chunks()]).sum(0) / values
    center = mean.view(1, -1, 1, 1)
    squares = torch.stack([(chunk - center).square().sum(dim=(0, 2, 3)) for chunk in chunks()]).sum(0)
    return mean, squares / values


def _stored_moments(x: StoredRows) -> tuple[Tensor, Tensor]:
    """The same from the sums that were noted when the images were decoded. They are integers, so nothing is rounded
    before the end."""
    values = x.shape.numel() // x.shape[1]
    sums, squares = x.moments()
    mean = [total / values for total in sums]
    variance = [(values * square - total * total) / values**2 for total, square in zip(sums, squares, strict=True)]
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)


def _seven_digits(value: float) -> float:
    return float(f"{value:.7g}")


@lru_cache(maxsize=16)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Cached on the device: a copy from the host for each batch would wait for the GPU."""
    as_rows = [torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1) for values in (mean, std)]
    return as_rows[0], as_rows[1]
