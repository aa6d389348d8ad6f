"""Turning, scaling, noise and masks; shifts and mirrors are in test_data_preprocessing.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_core.data import DatasetError, Interface, augment, load_dataset
from lit_core.data.augmentation import varies
from lit_core.data.text_preprocessing import PADDING, UNKNOWN
from lit_core.data.views import SampleViews
from lit_spec import Augmentation, DatasetRequest, Modality, Task

STILL = Augmentation(shift=0, flip=False)
LARGEST = 0.999
"""Of a draw from [-1, 1]: seeds are looked for until a draw comes so near to its end."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def varied(x: Tensor, augmentation: Augmentation, seed: int = 0) -> Tensor:
    """The first view of each of the samples."""
    return augment(x, augmentation, SampleViews(torch.arange(len(x)), torch.zeros(len(x), dtype=torch.int64), seed))


def ramps(height: int, width: int, batch: int) -> Tensor:
    """Two channels that count pixels from the middle, (B, 2, H, W): downwards and to the right."""
    down = torch.arange(height).float() - (height - 1) / 2
    right = torch.arange(width).float() - (width - 1) / 2
    both = torch.stack([down[:, None].expand(height, width), right[None].expand(height, width)])
    return both.expand(batch, 2, height, width)


def origins(x: Tensor) -> Tensor:
    """Where the pixels around the middle of turned ramps came from: the matrices (B, 2, 2) of the maps.

    Bilinear interpolation keeps a ramp a ramp, so two differences tell the whole map where nothing came from outside.
    """
    row, column = x.shape[2] // 2, x.shape[3] // 2
    down = x[:, :, row + 1, column] - x[:, :, row, column]
    right = x[:, :, row, column + 1] - x[:, :, row, column]
    return torch.stack([down, right], dim=2)


def angles_and_scales(x: Tensor) -> tuple[Tensor, Tensor]:
    """Degrees, and the enlargement, of turned ramps."""
    maps = origins(x)
    torch.testing.assert_close(maps[:, 0, 0], maps[:, 1, 1], atol=1e-4, rtol=0)  # nothing is sheared or stretched
    torch.testing.assert_close(maps[:, 0, 1], -maps[:, 1, 0], atol=1e-4, rtol=0)
    angles = torch.rad2deg(torch.atan2(maps[:, 0, 1], maps[:, 0, 0]))
    return angles, 1 / torch.linalg.det(maps).sqrt()


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (21, 9)])
def test_angles_and_scales_are_drawn_evenly_within_their_bounds(size: tuple[int, int]) -> None:
    augmentation = STILL.model_copy(update={"rotate": 40.0, "scale": 1.25})
    angles, scales = angles_and_scales(varied(ramps(*size, 4000), augmentation))
    for draws, bound in ((angles, 40.0), (scales.log(), math.log(1.25))):
        assert draws.abs().max() <= bound * 1.001
        assert draws.max() > 0.99 * bound
        assert draws.min() < -0.99 * bound
        assert draws.mean().abs() < 0.05 * bound
        # The standard deviation of what is even in [-bound, bound].
        assert draws.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert torch.corrcoef(torch.stack([angles, scales]))[0, 1].abs() < 0.05


def drawn_at_the_end(batch: int) -> tuple[int, int, float]:
    """A seed, a row and the sign of its first draw, which is as large as draws from [-1, 1] get."""
    for seed in range(1000):
        draws = 2 * SampleViews(torch.arange(batch), torch.zeros(batch, dtype=torch.int64), seed).uniform("angle") - 1
        row = int(draws.abs().argmax())
        if draws[row].abs() > LARGEST:
            return seed, row, math.copysign(1, float(draws[row]))
    raise AssertionError("no seed draws an end")


def test_a_quarter_turn_moves_pixels_to_their_places() -> None:
    seed, row, sign = drawn_at_the_end(64)
    x = torch.rand(64, 3, 9, 9, generator=generator(1))
    turned = varied(x, STILL.model_copy(update={"rotate": 90.0}), seed)[row]
    expected = torch.rot90(x[row], int(sign), dims=(1, 2))
    other = torch.rot90(x[row], -int(sign), dims=(1, 2))
    # The draw is short of the end by a tenth of a degree at most, so pixels mix by a hundredth.
    torch.testing.assert_close(turned, expected, atol=0.03, rtol=0)
    assert (turned - other).abs().max() > 0.3


def test_scaling_enlarges_about_the_middle_and_zeros_move_in() -> None:
    x = torch.ones(200, 1, 8, 8)
    scales = angles_and_scales(varied(ramps(8, 8, 200), STILL.model_copy(update={"scale": 2.0})))[1]
    result = varied(x, STILL.model_copy(update={"scale": 2.0}))
    for image, scale in zip(result[:, 0], scales.tolist(), strict=True):
        # What is within `side` of the middle was within the image.
        side = 4 * min(scale, 1.0)
        distance = torch.maximum(*ramps(8, 8, 1)[0].abs())
        assert torch.allclose(image[distance <= side - 1], torch.ones(()))
        assert torch.allclose(image[distance >= side + 1], torch.zeros(()))
    assert scales.min() < 0.55
    assert scales.max() > 1.8


def test_noise_has_the_deviation_asked_for_and_no_two_pixels_share_it() -> None:
    x = torch.randn(100, 2, 10, 10, generator=generator(5))
    noise = varied(x, STILL.model_copy(update={"noise": 0.6})) - x
    assert noise.mean().abs() < 0.01
    assert noise.std().item() == pytest.approx(0.6, rel=0.02)
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.4
    assert torch.corrcoef(noise.flatten(1).T).fill_diagonal_(0).abs().max() < 0.6


def test_noise_comes_last_and_covers_the_border_that_moved_in() -> None:
    x = torch.ones(50, 1, 8, 8)
    result = varied(x, Augmentation(shift=3, flip=True, rotate=30, scale=1.5, noise=0.1))
    assert (result == 0).sum() == 0


def test_masks_hide_characters_but_no_padding() -> None:
    x = torch.randint(2, 69, (200, 50), generator=generator(1), dtype=torch.int64)
    x[:, 40:] = PADDING
    result = varied(x, Augmentation(mask=0.3))
    assert torch.equal(result[:, 40:], x[:, 40:])
    hidden = result != x
    assert set(result[hidden].tolist()) == {UNKNOWN}
    assert hidden[:, :40].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert 0 < hidden.sum(dim=1).min() < hidden.sum(dim=1).max() < 40
    assert torch.equal(varied(x, Augmentation()), x)


ALL = Augmentation(shift=2, flip=True, rotate=30, scale=1.3, noise=0.2)


@pytest.mark.parametrize(
    ("x", "augmentation"),
    [
        (torch.rand(6, 3, 12, 10, generator=generator(1)), ALL),
        (torch.randint(2, 69, (6, 30), generator=generator(1)), Augmentation(mask=0.4)),
    ],
)
def test_seed_row_and_view_alone_decide(x: Tensor, augmentation: Augmentation) -> None:
    before = x.clone()
    one, again = varied(x, augmentation, 7), varied(x, augmentation, 7)
    assert torch.equal(one, again)
    assert not torch.equal(one, varied(x, augmentation, 8))
    assert torch.equal(x, before)
    assert (one.shape, one.dtype) == (x.shape, x.dtype)
    # In another batch, in another order and beside another view of itself, a sample looks the same.
    rows, views = torch.tensor([4, 1, 4]), torch.tensor([0, 0, 1])
    other = augment(x[rows], augmentation, SampleViews(rows, views, 7))
    torch.testing.assert_close(other[:2], one[rows[:2]])
    assert not torch.equal(other[2], one[4])
    assert varied(x.to("meta"), augmentation, 7).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_makes_of_the_draws_what_a_cpu_does() -> None:
    x = torch.rand(6, 3, 12, 10, generator=generator(1))
    there = varied(x.to("cuda"), ALL, 7)
    torch.testing.assert_close(there.cpu(), varied(x, ALL, 7))


# --- what is standard ------------------------------------------------------------------------------------


def chosen(tmp_path: Path, augmentation: Augmentation | None, interface: Interface, size: tuple[int, int]) -> Any:
    path = tmp_path / "dataset"
    y = np.arange(40) % 2
    with path.open("wb") as file:
        if interface.modality == Modality.TEXT:
            np.savez(file, x=np.array(["a text"] * 40), y=y)
        else:
            np.savez(file, x=np.zeros((40, 3, *size), np.uint8), y=y)
    return load_dataset(DatasetRequest(upload="u"), augmentation, path, interface).augmentation


IMAGES = Interface(3, 2)
GENERATOR = Interface(3, 2, task=Task.TRANSLATION)
TEXTS = Interface(None, 2, Modality.TEXT, vocabulary_size=69)


@pytest.mark.parametrize(
    ("asked", "interface", "size", "expected"),
    [
        (None, IMAGES, (32, 40), {"shift": 4, "flip": False}),
        (None, IMAGES, (7, 7), {"shift": 0, "flip": False}),
        (None, IMAGES, (800, 600), {"shift": 64, "flip": False}),
        (None, GENERATOR, (32, 32), {"shift": 0, "flip": True}),
        (None, TEXTS, (1, 1), {"shift": None, "flip": None}),
        ({"flip": True}, IMAGES, (32, 32), {"shift": 4, "flip": True}),
        ({"shift": 0, "rotate": 10}, IMAGES, (32, 32), {"shift": 0, "flip": False, "rotate": 10}),
        ({"flip": False}, GENERATOR, (32, 32), {"shift": 0, "flip": False}),
        ({"mask": 0.1}, TEXTS, (1, 1), {"shift": None, "flip": None, "mask": 0.1}),
    ],
)
def test_what_a_request_leaves_open_is_standard(
    tmp_path: Path,
    asked: dict[str, Any] | None,
    interface: Interface,
    size: tuple[int, int],
    expected: dict[str, Any],
) -> None:
    augmentation = None if asked is None else Augmentation.model_validate(asked)
    assert chosen(tmp_path, augmentation, interface, size) == Augmentation.model_validate(expected)


@pytest.mark.parametrize(
    ("asked", "interface", "field"),
    [
        ({"mask": 0.1}, IMAGES, "augmentation.mask"),
        ({"rotate": 10}, TEXTS, "augmentation.rotate"),
        ({"flip": True}, TEXTS, "augmentation.flip"),
        ({"shift": 32}, IMAGES, "augmentation.shift"),
    ],
)
def test_what_the_data_do_not_allow(tmp_path: Path, asked: dict[str, Any], interface: Interface, field: str) -> None:
    with pytest.raises(DatasetError) as caught:
        chosen(tmp_path, Augmentation.model_validate(asked), interface, (32, 32))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "asked",
    [
        {"shift": 1},
        {"flip": True},
        {"rotate": 1},
        {"scale": 1.1},
        {"noise": 0.1},
        {"mask": 0.1},
        {"color_jitter": 0.1},
        {"crop_scale": [0.5, 1.0]},
    ],
    ids=str,
)
def test_what_changes_samples_is_known(asked: dict[str, Any]) -> None:
    assert varies(Augmentation.model_validate({"shift": 0, "flip": False, **asked}))
    assert not varies(Augmentation(shift=0, flip=False))
