"""Random resized crops and colour jitter."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms.v2 import functional

from lit_core.data import Dataset, DatasetError, Interface, load_dataset
from lit_core.data.pixel_changes import (
    UNIFORMS,
    change_pixels,
    crop_boxes,
    crop_source,
    jittered,
    resized_crops,
)
from lit_core.data.pixels import fit, image_to_raw
from lit_core.data.views import SampleViews
from lit_spec import Augmentation, DatasetRequest, Split


def uniform(samples: int = 5000) -> torch.Tensor:
    return torch.rand(samples, UNIFORMS, generator=torch.Generator().manual_seed(0))


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def load(path: Path, augmentation: dict[str, Any] | None, **request: Any) -> Dataset:
    asked = DatasetRequest(upload="u", **{"size": [16, 16], **request})
    made = None if augmentation is None else Augmentation(**augmentation)
    return load_dataset(asked, made, path, Interface(3, 2))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for number in range(40):
            content = io.BytesIO()
            picture(number).save(content, "PNG")
            packed.writestr(f"{number % 2}/{number:03}.png", content.getvalue())
    return tmp_path / "a.zip"


# --- crops --------------------------------------------------------------------------------------------------


def views(samples: int) -> SampleViews:
    return SampleViews(torch.arange(samples), torch.zeros(samples, dtype=torch.int64), 0)


def test_crops_have_the_areas_and_ratios_that_are_asked_for() -> None:
    augmentation = Augmentation(crop_scale=[0.2, 0.6], crop_ratio=[0.5, 2.0])
    top, left, height, width = crop_boxes(uniform(), 200, 300, augmentation).double().unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + height <= 200) & (left + width <= 300)).all())
    share, ratio = height * width / (200 * 300), width / height
    assert 0.195 < float(share.min()) < 0.21
    assert 0.59 < float(share.max()) < 0.605
    assert 0.49 < float(ratio.min()) < 0.52
    assert 1.95 < float(ratio.max()) < 2.05
    # Places are even over the room that a crop leaves.
    assert abs(float((left / (300 - width).clamp(min=1)).mean()) - 0.5) < 0.03


def test_a_crop_that_never_fits_is_the_middle() -> None:
    augmentation = Augmentation(crop_scale=[1.0, 1.0], crop_ratio=[0.5, 0.5])
    boxes = crop_boxes(uniform(10), 40, 100, augmentation)
    assert boxes.tolist() == [[0, 40, 40, 20]] * 10


def test_a_sample_s_changes_do_not_depend_on_its_batch() -> None:
    numbers, augmentation = uniform(20), Augmentation(crop_scale=[0.1, 1.0])
    together = crop_boxes(numbers, 64, 48, augmentation)
    alone = torch.cat([crop_boxes(one[None], 64, 48, augmentation) for one in numbers])
    assert torch.equal(together, alone)


def test_a_crop_is_cut_and_resized() -> None:
    x = torch.stack([image_to_raw(picture(number), 3) for number in range(2)])
    whole = torch.tensor([[0, 0, 40, 50], [8, 5, 16, 16]])
    made = resized_crops(x, whole, [16, 16])
    assert made.dtype == torch.uint8
    assert torch.equal(made[1], x[1, :, 8:24, 5:21])
    wanted = fit(x[:1], DatasetRequest(upload="u", size=[16, 16]))[0]
    assert int((made[0].int() - wanted.int()).abs().max()) <= 1


def test_crops_come_from_larger_images_where_they_are_asked_for(archive: Path) -> None:
    dataset = load(archive, {"crop_scale": [0.08, 1.0], "crop_from": 24}, train_samples=12)
    train, validation = dataset.splits[Split.TRAIN], dataset.splits[Split.VALIDATION]
    assert dataset.augmentation.shift == 0
    assert validation.wider is None
    wide = crop_source(train)
    assert wide.shape == (12, 3, 24, 24)
    by_pixels = {
        fit(image_to_raw(picture(number), 3)[None], DatasetRequest(upload="u", size=[size, size]))[0]
        .numpy()
        .tobytes(): number
        for number in range(40)
        for size in (16, 24)
    }
    found = [[by_pixels[image.contiguous().numpy().tobytes()] for image in x[:]] for x in (train.x, wide)]
    assert found[0] == found[1]
    made = change_pixels(wide[:], dataset, views(12))
    assert made.shape == (12, 3, 16, 16)


def test_the_middle_of_the_larger_images_is_what_the_network_sees(archive: Path) -> None:
    augmentation = {"crop_scale": [0.08, 1.0], "crop_from": 24}
    train = load(archive, augmentation, resize=24).splits[Split.TRAIN]
    assert torch.equal(crop_source(train)[:][:, :, 4:20, 4:20], train.x[:])


@pytest.mark.parametrize(
    ("augmentation", "request_", "field"),
    [
        ({"crop_scale": [0.5, 1.0], "crop_from": 12}, {}, "augmentation.crop_from"),
        ({"crop_scale": [0.5, 1.0], "crop_from": 12}, {"size": None}, "augmentation.crop_from"),
    ],
)
def test_crops_from_smaller_images_are_refused(
    archive: Path, augmentation: dict[str, Any], request_: dict[str, Any], field: str
) -> None:
    with pytest.raises(DatasetError) as failure:
        load(archive, augmentation, **request_)
    assert failure.value.field == field


@pytest.mark.parametrize("wrong", [{"crop_scale": [0.9, 0.1]}, {"crop_from": 32}, {"crop_scale": [0.0, 1.0]}])
def test_bounds_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Augmentation(**wrong)


# --- colours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_change_as_torchvision_changes_them(channels: int) -> None:
    x = torch.stack([image_to_raw(picture(number), channels) for number in range(5)])
    factors = torch.tensor([[1.0, 1.0, 1.0], [0.5, 1, 1], [1, 1.6, 1], [1, 1, 0.0], [1.4, 0.7, 1.3]])
    for image, own, made in zip(x, factors.tolist(), jittered(x, factors), strict=True):
        wanted = functional.adjust_brightness(image.float() / 255, own[0])
        wanted = functional.adjust_contrast(wanted, own[1])
        wanted = functional.adjust_saturation(wanted, own[2])
        torch.testing.assert_close(made / 255, wanted, atol=1e-4, rtol=0)


def test_jitter_stays_within_its_bounds(archive: Path) -> None:
    dataset = load(archive, {"color_jitter": 0.2, "shift": 0})
    x = torch.full((500, 3, 16, 16), 100, dtype=torch.uint8)
    made = change_pixels(x, dataset, views(500))
    assert 80 <= float(made.min()) < 81
    assert 119 < float(made.max()) <= 120


def test_nothing_changes_where_nothing_is_asked_for(archive: Path) -> None:
    dataset = load(archive, None)
    raw = dataset.splits[Split.TRAIN].x[:]
    assert change_pixels(raw, dataset, views(len(raw))) is raw


def test_a_samples_pixels_change_in_the_same_way_in_every_batch(archive: Path) -> None:
    dataset = load(archive, {"crop_scale": [0.08, 1.0], "color_jitter": 0.3})
    raw, samples = dataset.splits[Split.TRAIN].x[:8], views(8)
    whole = change_pixels(raw, dataset, samples)
    some = torch.tensor([5, 0, 3])
    assert torch.equal(change_pixels(raw[some], dataset, samples.at(some)), whole[some])


def test_floats_have_no_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.random((20, 3, 16, 16), dtype=np.float32), y=np.arange(20) % 2)
    with pytest.raises(DatasetError) as failure:
        load(tmp_path / "d.npz", {"color_jitter": 0.5})
    assert failure.value.field == "augmentation.color_jitter"
    cropped = load(tmp_path / "d.npz", {"crop_scale": [0.5, 1.0]})
    made = change_pixels(crop_source(cropped.splits[Split.TRAIN])[:4], cropped, views(4))
    assert (made.dtype, made.shape) == (torch.float32, (4, 3, 16, 16))
    assert math.isfinite(float(made.sum()))
