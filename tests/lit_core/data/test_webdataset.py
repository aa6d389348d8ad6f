"""WebDataset: images and labels with one key."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_spec import Split
from tests.lit_core.data.test_images import Files, load, pack, picture, red, refusal


def samples(*prefixes: str, count: int = 10, suffix: str = "png") -> Files:
    """The red channel is 10 times the sample's number; the labels alternate."""
    files = {}
    for prefix in prefixes:
        for number in range(count):
            files[f"{prefix}{number:05}.{suffix}"] = picture(10 * number)
            files[f"{prefix}{number:05}.cls"] = b"%d\n" % (number % 2)
    return files


@pytest.mark.parametrize("kind", ["tar.", "tar.gz", "zip"])
@pytest.mark.parametrize("prefix", ["", "shard/", "n01440764/"])
def test_samples_without_splits(tmp_path: Path, kind: str, prefix: str) -> None:
    dataset = load(pack(tmp_path / "dataset", samples(prefix), kind))
    assert dataset.classes == ["0", "1"]
    found = [pair for arrays in dataset.splits.values() for pair in zip(red(arrays.x), arrays.y.tolist(), strict=True)]
    assert sorted(found) == [(10 * number, number % 2) for number in range(10)]


@pytest.mark.parametrize("wrap", ["", "data/"])
def test_splits_are_told_by_folders(tmp_path: Path, wrap: str) -> None:
    files = samples(*(f"{wrap}{name}/" for name in ("train", "val", "test")), count=4)
    extra = {
        f"{wrap}train/00000.json": b"{}",
        f"{wrap}train/00000.seg.png": b"",
        f"{wrap}README.md": b"",
        "._x.cls": b"",
    }
    dataset = load(pack(tmp_path / "dataset", {**files, **extra}, "tar."), class_order=["cat", "dog"])
    assert dataset.classes == ["cat", "dog"]
    assert all(red(arrays.x) == [0, 10, 20, 30] for arrays in dataset.splits.values())
    assert all(arrays.y.tolist() == [0, 1, 0, 1] for arrays in dataset.splits.values())
    assert dataset.notes[0] == "files of the samples that are not used: .json, .seg.png"


@pytest.mark.parametrize(
    ("extra", "member", "words"),
    [
        ({"9.cls": b"1"}, "9.cls", "the label of no image: add 9.jpg"),
        ({"9.png": picture(1)}, "9.png", "an image without a label: add 9.cls"),
        ({"9.png": picture(1), "9.cls": b"cat"}, "9.cls", "holds no integer"),
        ({"9.png": picture(1), "9.cls": b"1" * 100}, "9.cls", "holds no integer"),
        ({"9.png": picture(1), "9.cls": b"\xff"}, "9.cls", "holds no integer"),
        ({"9.png": picture(1), "9.cls": b"2"}, "9.cls", "is 2, but the teacher has 2 classes"),
        ({"00000.jpg": picture(1)}, "00000.jpg", "are images of one sample"),
        ({"test/9.png": picture(1), "test/9.cls": b"1"}, "00000.png", "belongs to no split"),
        ({"9.png": b"none", "9.cls": b"1"}, "9.png", "as an image"),
        ({"9.png": picture(1), "9.cls": b"-1"}, "9.cls", "give dataset.unlabelled -1"),
    ],
)
def test_refusals_name_the_member(tmp_path: Path, extra: Files, member: str, words: str) -> None:
    error = refusal(pack(tmp_path / "dataset", {**samples(""), **extra}, "tar."))
    assert error.member == member
    assert words in error.detail


def test_samples_without_labels(tmp_path: Path) -> None:
    files = {**samples("train/", "val/", "test/", count=4), "train/00000.cls": b"-1", "train/00001.cls": b"-1"}
    dataset = load(pack(tmp_path / "dataset", files, "tar."), unlabelled=-1)
    assert dataset.splits[Split.TRAIN].y.tolist() == [-1, -1, 0, 1]
