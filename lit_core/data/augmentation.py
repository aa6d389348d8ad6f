"""Augmentation of batches on their device. All random numbers are drawn on the CPU, so they are the same on every
device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_core.data.text_preprocessing import PADDING, UNKNOWN
from lit_core.data.views import SampleViews
from lit_spec import Augmentation

NOT_ALONE = {"scale", "crop_ratio", "crop_from"}
"""Fields that change nothing by being other than zero."""


def augment(x: Tensor, augmentation: Augmentation, samples: SampleViews) -> Tensor:
    """Change each image (B, C, H, W) or text (B, L) of a preprocessed batch at random, as its view says.

    Gaps are filled with zeros. They are zeros *after* preprocessing, so the border has the data's mean colour.
    """
    if not x.is_floating_point():
        return _mask(x, augmentation.mask, samples)
    if augmentation.rotate or augmentation.scale > 1:
        x = _turn(x, augmentation, samples)
    if augmentation.shift or augmentation.flip:
        x = _move(x, augmentation, samples)
    if augmentation.noise:
        drawn = [torch.randn(x.shape[1:], generator=generator) for generator in samples.generators("noise")]
        x = x + augmentation.noise * torch.stack(drawn).to(x.device, non_blocking=True)
    return x


def varies(augmentation: Augmentation) -> bool:
    """Whether it changes anything."""
    return augmentation.scale > 1 or any(
        getattr(augmentation, name) for name in Augmentation.model_fields if name not in NOT_ALONE
    )


def _mask(x: Tensor, share: float, samples: SampleViews) -> Tensor:
    if not share:
        return x
    drawn = torch.stack([torch.rand(x.shape[1], generator=generator) for generator in samples.generators("mask")])
    return x.masked_fill((drawn < share).to(x.device, non_blocking=True) & (x != PADDING), UNKNOWN)


def _turn(x: Tensor, augmentation: Augmentation, samples: SampleViews) -> Tensor:
    """Rotate and scale around the centre, with bilinear interpolation."""
    batch, _, height, width = x.shape
    angle = (2 * samples.uniform("angle") - 1) * math.radians(augmentation.rotate)
    # The grid says where each pixel comes from, so an enlargement divides.
    inverse = torch.exp(-(2 * samples.uniform("scale") - 1) * math.log(augmentation.scale))
    cosine, sine, zero = inverse * angle.cos(), inverse * angle.sin(), torch.zeros(batch)
    # The grid's coordinates run from -1 to 1 along both sides, so the aspect ratio is needed to keep circles round.
    ratio = height / width
    rows = [torch.stack([cosine, -sine * ratio, zero], dim=1), torch.stack([sine / ratio, cosine, zero], dim=1)]
    matrices = torch.stack(rows, dim=1).to(x.device, non_blocking=True)
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _move(x: Tensor, augmentation: Augmentation, samples: SampleViews) -> Tensor:
    """Shift by whole pixels, and mirror."""
    batch, _, height, width = x.shape
    shift = augmentation.shift
    rows = torch.arange(height).expand(batch, height)
    columns = torch.arange(width).expand(batch, width)
    if shift:
        down, right = ((samples.uniform(name) * (2 * shift + 1)).long() for name in ("down", "right"))
        rows = rows + down[:, None]
        columns = columns + right[:, None]
        x = F.pad(x, (shift, shift, shift, shift))
    if augmentation.flip:
        mirrored = samples.uniform("flip") < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    images = torch.arange(batch)[:, None, None]
    index = [part.to(x.device, non_blocking=True) for part in (images, rows[:, :, None], columns[:, None, :])]
    # The indexed dimensions come first: (B, H, W, C).
    return x.permute(0, 2, 3, 1)[tuple(index)].permute(0, 3, 1, 2).contiguous()
