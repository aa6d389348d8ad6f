"""What a job says where it does not preprocess images as the teacher's library does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_core.data import Dataset, Interface, load_dataset
from lit_core.tasks.library_notes import library_notes
from lit_spec import Architecture, DatasetRequest, JobSpec, LibraryPreprocessing, Resampling, StudentSpec, TeacherSpec

LIBRARY = LibraryPreprocessing(
    weights="in1k", size=[8, 8], resize=9, resampling=Resampling.BICUBIC, mean=[0.5] * 3, std=[0.1] * 3
)
GIVEN: dict[str, Any] = {"mean": [0.5] * 3, "std": [1.0] * 3, "size": [8, 8]}


class Bright(nn.Module):
    """The further from its mean an image's brightness is, the surer the answer."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean(dim=(1, 2, 3))
        return torch.stack([brightness, -brightness], dim=1)


def notes(
    path: Path, library: LibraryPreprocessing | None = LIBRARY, floats: bool = False, **dataset: Any
) -> list[str]:
    y = np.arange(60) % 2
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8)) // 3 + 150 * y[:, None, None, None]
    np.savez(path / "d.npz", x=(x / 255).astype(np.float32) if floats else x.astype(np.uint8), y=y)
    request = DatasetRequest(upload="u", **{**GIVEN, **dataset})
    data: Dataset = load_dataset(request, None, path / "d.npz", Interface(3, 2))
    architecture = Architecture(family="timm", depth=1, blocks=[1], channels=3, classes=2)
    spec = JobSpec(
        teacher=TeacherSpec(upload="t", architecture=architecture, preprocessing=library),
        dataset=request,
        student=StudentSpec(depth=1, blocks=[1], init="inherit"),
    )
    return library_notes(spec, Bright(), data, torch.device("cpu"))


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


def test_measured_constants_are_told_where_the_library_has_some(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, mean="data")
    assert note.startswith("dataset.mean is measured on the data")
    assert "[0.5, 0.5, 0.5]" in note
    assert "in1k" in note
    (both,) = notes(tmp_path, mean="data", std="data")
    assert both.startswith("dataset.mean and dataset.std are measured")
    assert notes(tmp_path, library=None, mean="data") == []
