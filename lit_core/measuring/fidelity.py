"""How close images are to others, image by image. All are (B, C, H, W) in a generator's range -1..1.

Without torchmetrics, which has the same: to import it takes longer than many a job's training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

RANGE = 2.0
MOST_PSNR = 200.0
"""The value for equal images, instead of infinity."""
RADIUS = 5
SIGMA = 1.5


def l1(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference, (B,)."""
    return (images - others).abs().mean(dim=(1, 2, 3))


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (B,), at most 200."""
    squared_error = (images - others).square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(RANGE**2 / squared_error)).clamp(max=MOST_PSNR)


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004, eq. 13; Gaussian window of 11x11, σ = 1.5), (B,).

    Sides have at least 6 pixels. Images are mirrored at the border.
    """
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    mean, other_mean = _blurred(images), _blurred(others)
    variance = (_blurred(images.square()) - mean.square()).clamp(min=0)
    other_variance = (_blurred(others.square()) - other_mean.square()).clamp(min=0)
    covariance = _blurred(images * others) - mean * other_mean
    luminance = (2 * mean * other_mean + c1) / (mean.square() + other_mean.square() + c1)
    structure = (2 * covariance + c2) / (variance + other_variance + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _blurred(images: Tensor) -> Tensor:
    """Means weighted by the Gaussian window, (B, C, H, W)."""
    channels = images.shape[1]
    distances = torch.arange(-RADIUS, RADIUS + 1, dtype=images.dtype, device=images.device)
    weights = torch.exp(-((distances / SIGMA) ** 2) / 2)
    weights = weights / weights.sum()
    window = (weights[:, None] * weights).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(images, 4 * [RADIUS], mode="reflect"), window, groups=channels)
