"""How close images are to others, against torchmetrics' numbers and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_core.measuring import fidelity


def pair(noise: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 20, 17, generator=generator) * 2 - 1
    others = images + noise * torch.randn(images.shape, generator=generator)
    return images, others.clamp(-1, 1)


@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_the_numbers_are_those_of_torchmetrics(noise: float) -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    images, others = pair(noise)
    similarity = structural_similarity_index_measure(images, others, data_range=2.0, reduction="none")
    torch.testing.assert_close(fidelity.ssim(images, others), similarity)
    ratio = peak_signal_noise_ratio(images, others, data_range=2.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(fidelity.psnr(images, others), ratio)


def test_equal_images() -> None:
    images, _ = pair()
    assert fidelity.psnr(images, images).tolist() == 4 * [200.0]
    assert fidelity.ssim(images, images).tolist() == pytest.approx(4 * [1.0])
    assert fidelity.l1(images, images).tolist() == 4 * [0.0]


def test_a_constant_difference() -> None:
    images = torch.full((1, 1, 8, 8), 0.5)
    assert fidelity.psnr(images, images - 0.2).item() == pytest.approx(20, abs=1e-4)
    assert fidelity.l1(images, images - 0.2).item() == pytest.approx(0.2)
