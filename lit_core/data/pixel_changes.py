"""Augmentation of raw pixels, before they are preprocessed: random resized crops and colour jitter, on the device.

Everything random follows from uniform numbers of each sample's view, so that a sample's crop is the same on every
device and in every batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_core.data.dataset import Arrays, Dataset
from lit_core.data.store.rows import Rows
from lit_core.data.views import SampleViews
from lit_spec import Augmentation

ATTEMPTS = 10
"""At a crop with the drawn area and ratio that lies within the image, as in torchvision."""
UNIFORMS = 2 * ATTEMPTS + 2 + 3
"""Numbers for a sample: areas and ratios, a place, and three factors."""
LUMA = (0.2989, 0.587, 0.114)
"""Of red, green and blue, as in torchvision."""
BRIGHTEST = 255.0


def crop_source(arrays: Arrays) -> Rows:
    """The images from which the training's batches are made."""
    return arrays.x if arrays.wider is None else arrays.wider


def change_pixels(raw: Tensor, dataset: Dataset, samples: SampleViews) -> Tensor:
    """Images (B, C, H, W) of `crop_source` as the preprocessing takes them. Without such augmentation `raw` itself, and
    nothing is drawn."""
    augmentation, preprocessing = dataset.augmentation, dataset.preprocessing
    if preprocessing.kind != "image" or not (augmentation.crop_scale or augmentation.color_jitter):
        return raw
    uniform = torch.stack([samples.uniform(f"pixels {number}") for number in range(UNIFORMS)], dim=1)
    if augmentation.crop_scale:
        raw = resized_crops(raw, crop_boxes(uniform, raw.shape[2], raw.shape[3], augmentation), preprocessing.size)
    if augmentation.color_jitter:
        factors = 1 + augmentation.color_jitter * (2 * uniform[:, -3:] - 1)
        raw = jittered(raw, factors.to(raw.device, non_blocking=True))
    return raw


def crop_boxes(uniform: Tensor, height: int, width: int, augmentation: Augmentation) -> Tensor:
    """Top, left, height and width (B, 4), int64, from `uniform` (B, UNIFORMS) in [0, 1): as RandomResizedCrop of
    torchvision (Szegedy et al., CVPR 2015)."""
    smallest, largest = augmentation.crop_scale or (1.0, 1.0)
    low, high = map(math.log, augmentation.crop_ratio)
    numbers = uniform.double()
    area = height * width * (smallest + (largest - smallest) * numbers[:, :ATTEMPTS])
    ratio = torch.exp(low + (high - low) * numbers[:, ATTEMPTS : 2 * ATTEMPTS])
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.gather(1, first)
    usual = torch.tensor(_middle(height, width, augmentation.crop_ratio), dtype=torch.float64)
    sizes = torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)
    sizes = torch.where(found, sizes, usual)
    room = torch.tensor([height, width], dtype=torch.float64) - sizes
    places = (numbers[:, 2 * ATTEMPTS : 2 * ATTEMPTS + 2] * (room + 1)).floor()
    places = torch.where(found, places, (room / 2).floor())
    return torch.cat([places, sizes], dim=1).long()


def _middle(height: int, width: int, ratios: list[float]) -> tuple[int, int]:
    """Height and width of the largest central crop whose ratio is allowed."""
    ratio = min(max(width / height, ratios[0]), ratios[1])
    return min(height, round(width / ratio)), min(width, round(height * ratio))


def resized_crops(x: Tensor, boxes: Tensor, size: list[int]) -> Tensor:
    """The parts `boxes` (B, 4) of images (B, C, H, W), each resized to `size` with antialiasing; of x's type."""
    from torchvision.transforms.v2.functional import resized_crop  # imported here because it is slow to import

    made = [resized_crop(image, *box, size=size) for image, box in zip(x, boxes.tolist(), strict=True)]
    return torch.stack(made)


def jittered(x: Tensor, factors: Tensor) -> Tensor:
    """Images (B, 1 or 3, H, W) of 0 to 255 with brightness, contrast and saturation multiplied by `factors` (B, 3), in
    this order; float32. As torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation`."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.float().unbind(1))
    x = (x.float() * brightness).clamp(0, BRIGHTEST)
    x = torch.lerp(_grey(x).mean(dim=(2, 3), keepdim=True), x, contrast).clamp(0, BRIGHTEST)
    return torch.lerp(_grey(x), x, saturation).clamp(0, BRIGHTEST)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    weights = torch.tensor(LUMA, device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True)
