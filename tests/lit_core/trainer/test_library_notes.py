"""What a job says where it does not preprocess images as the teacher's library does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

import lit_core
from lit_core.data import Dataset, DatasetError, Interface, load_dataset
from lit_core.networks.teacher import inspect_teacher, read_teacher
from lit_core.tasks.library_notes import library_notes
from lit_core.tasks.scale_of_floats import check_scale
from lit_spec import (
    Architecture,
    DatasetRequest,
    JobRequest,
    JobSpec,
    LibraryPreprocessing,
    LibraryRequest,
    Resampling,
    StudentSpec,
    TeacherSpec,
    resolve,
)
from lit_spec.requests.dataset import IMAGENET_MEAN, IMAGENET_STD
from tests.lit_core.data.test_images import pack, picture
from tests.lit_core.trainer.test_methods import train_in

LIBRARY = LibraryPreprocessing(
    weights="in1k", size=[8, 8], resize=9, resampling=Resampling.BICUBIC, mean=[0.5] * 3, std=[0.1] * 3
)
GIVEN: dict[str, Any] = {"mean": [0.5] * 3, "std": [1.0] * 3, "size": [8, 8]}


class Bright(nn.Module):
    """The further from its mean an image's brightness is, the surer the answer."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean(dim=(1, 2, 3))
        return torch.stack([brightness, -brightness], dim=1)


class Rigid(Bright):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1, 3, 8, 8))


def notes(
    path: Path,
    library: LibraryPreprocessing | None = LIBRARY,
    floats: bool = False,
    teacher: nn.Module | None = None,
    **dataset: Any,
) -> list[str]:
    y = np.arange(60) % 2
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8)) // 3 + 150 * y[:, None, None, None]
    np.savez(path / "d.npz", x=(x / 255).astype(np.float32) if floats else x.astype(np.uint8), y=y)
    request = DatasetRequest(upload="u", **{**GIVEN, **dataset})
    data: Dataset = load_dataset(request, None, path / "d.npz", Interface(3, 2))
    return library_notes(spec_of(request, library), teacher or Bright(), data, torch.device("cpu"))


def spec_of(request: DatasetRequest, library: LibraryPreprocessing | None) -> JobSpec:
    architecture = Architecture(family="timm", depth=1, blocks=[1], channels=3, classes=2)
    return JobSpec(
        teacher=TeacherSpec(upload="t", architecture=architecture, preprocessing=library),
        dataset=request,
        student=StudentSpec(depth=1, blocks=[1], init="inherit"),
    )


def test_a_teacher_that_is_less_sure_than_with_its_librarys_constants_is_told(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, labels=False)
    assert "on 48 training samples" in note
    own, usual = (float(part.split(" %")[0].split()[-1]) for part in note.split(" (entropy")[:2])
    assert 50 < own < usual - 5
    assert "dataset.mean" in note


def test_nothing_is_told_where_it_is_as_sure_or_can_not_be_known(tmp_path: Path) -> None:
    quiet: list[dict[str, Any]] = [
        {},  # labels say more
        {"labels": False, "std": [0.1] * 3},
        {"labels": False, "std": [0.05] * 3},
        {"labels": False, "library": None},
        {"labels": False, "floats": True},
    ]
    for changes in quiet:
        assert notes(tmp_path, **changes) == [], changes


def test_a_teacher_that_does_not_run_with_its_librarys_size_is_told(tmp_path: Path) -> None:
    other = LIBRARY.model_copy(update={"size": [9, 9]})
    (note,) = notes(tmp_path, other, teacher=Rigid(), labels=False)
    assert "was not compared" in note
    assert "[9, 9] pixels" in note


def test_measured_constants_are_told_where_the_library_has_some(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, mean="data")
    assert note.startswith("dataset.mean is measured on the data")
    assert "[0.5, 0.5, 0.5]" in note
    assert "in1k" in note
    (both,) = notes(tmp_path, mean="data", std="data")
    assert both.startswith("dataset.mean and dataset.std are measured")
    assert notes(tmp_path, library=None, mean="data") == []


FLOATS = np.random.default_rng(0).random((60, 3, 8, 8), np.float32)
PUBLISHED = {"mean": LIBRARY.mean, "std": LIBRARY.std}


def floats(path: Path, x: NDArray[np.float32], library: LibraryPreprocessing | None, **dataset: Any) -> None:
    """Checks the scale of x as a job does."""
    np.savez(path / "d.npz", x=x, y=np.arange(len(x)) % 2)
    request = DatasetRequest(upload="u", **dataset)
    check_scale(spec_of(request, library), load_dataset(request, None, path / "d.npz", Interface(3, 2)))


@pytest.mark.parametrize("x", [255 * FLOATS, 2 * FLOATS - 1, (FLOATS - 0.5) / 0.25], ids=["255", "-1..1", "standard"])
@pytest.mark.parametrize(
    ("library", "constants", "field"),
    [
        (LIBRARY, PUBLISHED, "dataset.mean"),
        (LIBRARY, {"mean": "data", "std": LIBRARY.std}, "dataset.std"),
        (LIBRARY, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}, "dataset.mean"),
        (None, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}, "dataset.mean"),
    ],
    ids=["library", "its std", "ImageNet", "no library"],
)
@pytest.mark.parametrize("geometry", [{}, {"size": [20, 20], "resampling": "lanczos"}], ids=["as it is", "resized"])
def test_floats_of_another_scale_than_that_of_published_constants_are_refused(
    tmp_path: Path,
    x: NDArray[np.float32],
    library: LibraryPreprocessing | None,
    constants: dict[str, Any],
    field: str,
    geometry: dict[str, Any],
) -> None:
    with pytest.raises(DatasetError, match=r"floats from -?[\d.]+ to [\d.]+, but dataset") as refused:
        floats(tmp_path, x, library, **constants, **geometry)
    assert refused.value.field == field


def test_other_floats_and_constants_are_taken(tmp_path: Path) -> None:
    edges = (np.indices((60, 3, 8, 8)).sum(axis=0) % 2).astype(np.float32)
    for filter_ in Resampling:
        # Bicubic and Lanczos make values outside 0..1 of these.
        floats(tmp_path, edges, LIBRARY, **PUBLISHED, size=[20, 20], resampling=filter_)
    for constants in ({}, {"mean": [127.5] * 3, "std": [60.0] * 3}):
        floats(tmp_path, 255 * FLOATS, LIBRARY, **constants)
    floats(tmp_path, 255 * FLOATS, None, mean=LIBRARY.mean, std=LIBRARY.std)


def test_a_job_of_a_librarys_teacher_sees_what_the_library_shows(tmp_path: Path) -> None:
    """From images of several shapes to the student's folder, with a request that says nothing of it."""
    torch.manual_seed(0)
    folder, network = tmp_path / "job", timm.create_model("test_vit", num_classes=2)
    folder.mkdir()
    save_file(network.state_dict(), folder / "teacher.safetensors")
    named = LibraryRequest.model_validate({"library": "timm", "name": "test_vit"})
    pack(folder / "dataset", {f"{place}.png": picture(9 * place, (30 + place, 40)) for place in range(24)})
    request = {
        "teacher": "t",
        "architecture": named,
        "dataset": {"upload": "d"},
        "student": {"depth": 4, "select": "even"},
        "alpha": 0,
        "schedule": {"batch_size": 8, "lit": {"epochs": 1}, "fine_tune": {"epochs": 0}},
        "exports": [],
    }
    inspection = inspect_teacher(read_teacher(folder / "teacher.safetensors", named))
    spec = resolve(JobRequest.model_validate(request), inspection)
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "run.json").write_text(json.dumps({"device": "cpu", "threads": 1, "attempt": 1}))
    x = 255 * np.random.default_rng(0).random((24, 3, 8, 8), np.float32)
    images = (folder / "dataset").read_bytes()
    np.savez(folder / "floats.npz", x=x)
    (folder / "floats.npz").rename(folder / "dataset")
    with pytest.raises(DatasetError, match="floats from"):
        train_in(folder)
    (folder / "dataset").write_bytes(images)
    report = train_in(folder)
    assert report["preprocessing"]["size"] == [160, 160]
    model = lit_core.load(folder / "output")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    theirs = create_transform(**resolve_model_data_config(network))(image)
    assert torch.allclose(model.preprocess([image])[0], theirs, atol=1e-5)
