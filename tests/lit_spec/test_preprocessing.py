"""What a request leaves open is as in the teacher's library, and named constants become numbers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lit_spec import Architecture, Inspection, JobRequest, JobSpec, LibraryPreprocessing, SpecError, Task, resolve
from lit_spec.networks.architecture import Resampling, TeacherFormat
from lit_spec.requests.upgrades import upgrade_job
from tests.lit_spec.test_resolve import inspection

LIBRARY = LibraryPreprocessing(
    weights="a1_in1k",
    size=[224, 224],
    resize=235,
    resampling=Resampling.BICUBIC,
    mean=[0.5, 0.4, 0.3],
    std=[0.2, 0.3, 0.4],
)
NAMES = ("size", "resize", "resampling", "mean", "std")


def of_library(channels: int = 3, preprocessing: LibraryPreprocessing | None = LIBRARY) -> Inspection:
    found = inspection()
    architecture = found.architecture.model_copy(update={"channels": channels})
    return found.model_copy(update={"architecture": architecture, "preprocessing": preprocessing})


def resolved(dataset: dict[str, Any], found: Inspection | None = None, **changes: Any) -> JobSpec:
    body = {"teacher": "t", "student": {"depth": 14}, **changes, "dataset": {"upload": "d", **dataset}}
    return resolve(JobRequest.model_validate(body), found or of_library())


def test_all_that_is_left_open_is_the_librarys_and_explicit() -> None:
    spec = resolved({})
    assert {name: getattr(spec.dataset, name) for name in NAMES} == LIBRARY.model_dump(exclude={"weights"})
    assert spec.teacher.preprocessing == LIBRARY
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("given", "size", "resize"),
    [
        ({"size": [32, 32]}, [32, 32], None),
        ({"size": [32, 32], "resize": 36}, [32, 32], 36),
        ({"size": None}, None, None),
        ({"crop": 178}, [224, 224], None),
        ({"resize": 256}, [224, 224], 256),
        ({"resize": [256, 300]}, [224, 224], [256, 300]),
        ({"resize": None}, [224, 224], None),
    ],
)
def test_a_given_size_or_crop_wins_and_nothing_else_is_cut(
    given: dict[str, Any], size: list[int] | None, resize: int | list[int] | None
) -> None:
    dataset = resolved(given).dataset
    assert (dataset.size, dataset.resize, dataset.crop) == (size, resize, given.get("crop"))
    assert (dataset.resampling, dataset.mean) == ("bicubic", LIBRARY.mean)


def test_given_constants_and_filters_win() -> None:
    dataset = resolved({"mean": "imagenet", "std": "data", "resampling": "lanczos"}).dataset
    assert (dataset.mean, dataset.std, dataset.resampling) == ([0.485, 0.456, 0.406], "data", "lanczos")
    assert resolved({"mean": [0, 0, 0], "std": "library"}).dataset.std == LIBRARY.std
    assert resolved({"std": "imagenet"}).dataset.std == [0.229, 0.224, 0.225]


def test_without_a_library_nothing_changes() -> None:
    dataset = resolved({}, of_library(preprocessing=None)).dataset
    assert [getattr(dataset, name) for name in NAMES] == [None, None, "bilinear", "data", "data"]


@pytest.mark.parametrize(
    ("given", "found", "field", "words"),
    [
        ({"mean": "imagenet"}, of_library(1, None), "dataset.mean", "three|has 3 values, but the teacher takes 1"),
        ({"std": "imagenet"}, of_library(1, None), "dataset.std", "give one value per channel, or data"),
        ({"mean": "library"}, of_library(3, None), "dataset.mean", "no library's constants"),
        ({"resize": 200}, of_library(), "dataset.resize", "give at least 224"),
        ({"resize": [256, 200]}, of_library(), "dataset.resize", "give at least 224"),
        ({"resize": 256}, of_library(3, None), "dataset.resize", "give dataset.size too"),
        ({"size": [64, 32], "resize": 48}, of_library(), "dataset.resize", "give at least 64"),
    ],
)
def test_what_does_not_fit_the_teacher_is_refused(
    given: dict[str, Any], found: Inspection, field: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words) as failure:
        resolved(given, found)
    assert failure.value.field == field


@pytest.mark.parametrize(
    "given", [{"mean": "imagnet"}, {"resize": 0}, {"resize": [3]}, {"resize": True}, {"resampling": "box"}]
)
def test_what_nobody_can_ask_for(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        resolved(given)


def test_texts_are_not_resized() -> None:
    options: dict[str, int | str | bool] = {"vocabulary_size": 69}
    found = of_library(preprocessing=None)
    text = found.architecture.model_copy(update={"modality": "text", "channels": None, "options": options})
    for given in ({"resize": 256}, {"resampling": "bicubic"}, {"mean": "imagenet"}):
        with pytest.raises(SpecError, match="is for images"):
            resolved(given, found.model_copy(update={"architecture": text}))


def test_the_teachers_accuracy_is_for_classes() -> None:
    # Without the labels of the other splits, it is measured on those of the test split.
    for dataset in ({}, {"labels": False}):
        assert resolved(dataset, teacher_accuracy=91, alpha=0).teacher_accuracy == 91
    generator = Architecture(
        family="stargan", task=Task.TRANSLATION, depth=6, blocks=[6], channels=3, classes=2, options={}
    )
    found = Inspection(format=TeacherFormat.PT, architecture=generator, parameters=9, students=of_library().students)
    with pytest.raises(SpecError, match="is for classifiers"):
        resolved({}, found, teacher_accuracy=91)
    for wrong in (0, 101, "91"):
        with pytest.raises(ValidationError):
            resolved({}, teacher_accuracy=wrong)


def test_a_stored_job_from_before_keeps_its_preprocessing() -> None:
    stored = resolved({}, of_library(preprocessing=None)).model_dump(mode="json")
    newer = {"teacher_accuracy", "spec_version"}
    old = {name: value for name, value in stored.items() if name not in newer} | {"spec_version": 7}
    old["teacher"] = {name: value for name, value in stored["teacher"].items() if name != "preprocessing"}
    old["dataset"] = {n: value for n, value in stored["dataset"].items() if n not in {"resize", "resampling"}}
    again = JobSpec.model_validate(upgrade_job(old, 7)).model_dump(mode="json")
    again["dataset"]["unlabelled"] = None  # which is another step's
    assert again == stored
