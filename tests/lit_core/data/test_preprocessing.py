"""Preprocessing and augmentation."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_core.data import ImagePreprocessing, augment
from lit_core.data.preprocessing import measured, resolve_image_preprocessing
from lit_core.data.views import SampleViews
from lit_spec import Augmentation, DatasetRequest, Resampling

RANDOM = np.random.default_rng(8)


def preprocessing(channels: int = 3, scale: float = 255.0, size: tuple[int, int] = (4, 6)) -> ImagePreprocessing:
    mean, std = [0.5, 0.25, 0.125][:channels], [0.5, 2.0, 4.0][:channels]
    return ImagePreprocessing(
        size=list(size), channels=channels, scale=scale, mean=mean, std=std, class_order=["a", "b"]
    )


def test_apply_is_scale_then_mean_then_std() -> None:
    x = torch.from_numpy(RANDOM.integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)).permute(0, 3, 1, 2)
    expected = (x.double() / 255 - torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)) / torch.tensor([0.5, 2, 4]).view(
        3, 1, 1
    )
    result = preprocessing().apply(x)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    torch.testing.assert_close(result, expected.float())


def test_apply_refuses_another_shape() -> None:
    for shape in ((1, 1, 4, 6), (1, 3, 6, 4), (3, 4, 6)):
        with pytest.raises(ValueError, match=r"\(B, 3, 4, 6\)"):
            preprocessing().apply(torch.zeros(shape))


def test_survives_json() -> None:
    stored = preprocessing()
    stored.apply(torch.zeros(1, 3, 4, 6))
    assert ImagePreprocessing.model_validate_json(stored.model_dump_json()) == stored


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_measured_over_several_chunks(dtype: torch.dtype) -> None:
    x = torch.from_numpy(RANDOM.integers(0, 256, (2500, 3, 3, 2))).to(dtype)
    mean, std = measured(x, 255.0)
    exact = x.double() / 255
    assert mean == pytest.approx(exact.mean(dim=(0, 2, 3)).tolist(), rel=1e-6)
    assert std == pytest.approx(exact.std(dim=(0, 2, 3), correction=0).tolist(), rel=1e-6)


def test_mean_and_std_are_taken_from_the_request_or_the_data() -> None:
    train = torch.full((5, 2, 3, 3), 51, dtype=torch.uint8)
    request = DatasetRequest(upload="u", mean=[0.1, 0.3])
    resolved = resolve_image_preprocessing(request, train, ["a"])
    assert resolved.mean == [0.1, 0.3]
    assert resolved.std == [1.0, 1.0]  # constant channels
    assert resolve_image_preprocessing(DatasetRequest(upload="u", std=[2.0, 3.0]), train, ["a"]).mean == [0.2, 0.2]
    both = resolve_image_preprocessing(DatasetRequest(upload="u", mean=[0, 1], std=[2.0, 3.0]), train, ["a"])
    assert (both.mean, both.std, both.scale, both.size) == ([0, 1], [2.0, 3.0], 255.0, [3, 3])


def test_from_image_converts_and_resizes() -> None:
    pixels = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    raw = preprocessing().from_image(image)
    assert torch.equal(raw, torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert torch.equal(preprocessing().from_image(pixels), raw)
    assert torch.equal(preprocessing().from_image(pixels.transpose(2, 0, 1)), raw)
    grey = preprocessing(channels=1).from_image(image)
    assert torch.equal(grey[0, 0], torch.from_numpy(np.array(image.convert("L"))))
    large = image.resize((60, 40), Image.Resampling.NEAREST)
    resized = np.array(large.resize((6, 4), Image.Resampling.BILINEAR))
    assert torch.equal(preprocessing().from_image(large), torch.from_numpy(resized).permute(2, 0, 1)[None])


def test_from_image_of_floats() -> None:
    floats = RANDOM.standard_normal((4, 6))
    resolved = preprocessing(channels=1, scale=1.0)
    assert torch.equal(resolved.from_image(floats)[0, 0], torch.from_numpy(floats).float())
    assert resolved.apply(resolved.from_image(floats)).shape == (1, 1, 4, 6)
    with pytest.raises(ValueError, match="trained on floats"):
        resolved.from_image(Image.new("L", (6, 4)))
    with pytest.raises(ValueError, match="trained on uint8"):
        preprocessing(channels=1).from_image(floats)
    with pytest.raises(ValueError, match="3 channels"):
        preprocessing().from_image(floats)


def naive(x: torch.Tensor, down: int, right: int) -> torch.Tensor:
    shifted = torch.zeros_like(x)
    _, height, width = x.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                shifted[:, row, column] = x[:, row + down, column + right]
    return shifted


def first_views(x: torch.Tensor, seed: int) -> SampleViews:
    return SampleViews(torch.arange(len(x)), torch.zeros(len(x), dtype=torch.int64), seed)


@settings(max_examples=40, deadline=None)
@given(
    shift=st.integers(0, 5),
    flip=st.booleans(),
    seed=st.integers(0, 2**40),
    size=st.tuples(st.integers(2, 6), st.integers(2, 6)),
)
def test_augmented_images_are_shifts_and_mirrors(shift: int, flip: bool, seed: int, size: tuple[int, int]) -> None:
    x = torch.randn(4, 2, *size)
    augmentation = Augmentation(shift=shift, flip=flip)
    result = augment(x, augmentation, first_views(x, seed))
    assert torch.equal(result, augment(x, augmentation, first_views(x, seed)))
    reach = range(-shift, shift + 1)
    for image, source in zip(result, x, strict=True):
        candidates = [naive(source, down, right) for down in reach for right in reach]
        if flip:
            candidates += [candidate.flip(2) for candidate in candidates]
        assert any(torch.equal(image, candidate) for candidate in candidates)


def test_every_shift_is_drawn_and_images_differ() -> None:
    x = torch.arange(1.0, 26).view(1, 1, 5, 5).expand(4000, 1, 5, 5)
    result = augment(x, Augmentation(shift=1, flip=True), first_views(x, 0))
    kinds, counts = torch.unique(result.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 18
    assert counts.min() > 4000 / 18 * 0.7
    assert counts.max() < 4000 / 18 * 1.3


def test_the_specification_still_loads_no_torch() -> None:
    code = "import sys, lit_spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_the_filter_is_pillows(resampling: str) -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    resized = image.resize((6, 4), Image.Resampling[resampling.upper()])
    made = preprocessing().model_copy(update={"resampling": Resampling(resampling)}).from_image(image)
    assert torch.equal(made, torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None])


def test_a_configuration_from_before_is_read() -> None:
    stored = preprocessing().model_dump(mode="json", exclude={"resize"})
    assert ImagePreprocessing.model_validate(stored) == preprocessing()
