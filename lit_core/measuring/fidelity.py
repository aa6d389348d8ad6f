"""How close images are to others, image by image. All are (B, C, H, W) in a generator's range -1..1."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

RANGE = 2.0
MOST_PSNR = 200.0
"""The value for equal images, instead of infinity."""


def l1(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference, (B,)."""
    return (images - others).abs().mean(dim=(1, 2, 3))


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (B,), at most 200."""
    found = peak_signal_noise_ratio(images, others, data_range=RANGE, reduction="none", dim=(1, 2, 3))
    return found.clamp(max=MOST_PSNR)


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004; Gaussian window of 11x11, σ = 1.5), (B,). Sides have at least 6 pixels.

    Images are mirrored at the border.
    """
    found = structural_similarity_index_measure(images, others, data_range=RANGE, reduction="none")
    if not isinstance(found, Tensor):
        raise TypeError("torchmetrics returned more than the similarity")
    return found
