"""The layout of CelebA, and other data that generators learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_core.data import Dataset, DatasetError, Interface, load_dataset
from lit_spec import DatasetRequest, Split, Task
from tests.lit_core.data.test_images import Files, folders, pack, picture

NAMES = ("Black_Hair", "Blond_Hair", "Male", "Young")
CHOSEN = ["Young", "Black_Hair"]


def values(i: int) -> list[int]:
    """Of image i, all attributes."""
    return [1 if (i >> place) & 1 else -1 for place in range(len(NAMES))]


def celeba(count: int = 20, *, folder: str = "celeba/img_align_celeba/", partition: bool = False) -> Files:
    """Images of 12x10 pixels whose red channel is their number."""
    files = {f"{folder}{i:06}.png": picture(i, (10, 12)) for i in range(count)}
    rows = [f"{i:06}.png  {'  '.join(f'{value:>2}' for value in values(i))}" for i in range(count)]
    files["celeba/list_attr_celeba.txt"] = "\n".join([str(count), " ".join(NAMES), *rows, ""]).encode()
    if partition:
        lines = [f"{i:06}.png {(0, 0, 1, 2)[i % 4]}" for i in range(count)]
        files["celeba/list_eval_partition.txt"] = "\n".join(lines).encode()
    return files


def load(path: Path, *, domains: int = 2, channels: int = 3, task: Task = Task.TRANSLATION, **request: Any) -> Dataset:
    asked = DatasetRequest(upload="upl_x", **request)
    return load_dataset(asked, None, path, Interface(channels, domains, task=task))


def refusal(path: Path, **options: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load(path, **options)
    return caught.value


def numbers(x: torch.Tensor) -> list[int]:
    return x[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("kind", ["zip", "tar.", "tar.gz"])
@pytest.mark.parametrize("folder", ["celeba/img_align_celeba/", "celeba/", "images/"])
def test_images_get_the_chosen_attributes(tmp_path: Path, kind: str, folder: str) -> None:
    path = pack(tmp_path / "celeba", celeba(folder=folder), kind)
    dataset = load(path, attributes=CHOSEN)
    assert dataset.classes == CHOSEN
    assert {split: len(arrays.y) for split, arrays in dataset.splits.items()} == {
        Split.TRAIN: 16,
        Split.VALIDATION: 2,
        Split.TEST: 2,
    }
    for arrays in dataset.splits.values():
        assert arrays.y.dtype == torch.float32
        wanted = [[float(values(i)[NAMES.index(name)] == 1) for name in CHOSEN] for i in numbers(arrays.x)]
        assert arrays.y.tolist() == wanted
    assert dataset.augmentation.flip is True


def test_the_partition_is_followed(tmp_path: Path) -> None:
    dataset = load(pack(tmp_path / "celeba.zip", celeba(partition=True)), attributes=CHOSEN)
    assert numbers(dataset.splits[Split.VALIDATION].x) == [2, 6, 10, 14, 18]
    assert numbers(dataset.splits[Split.TEST].x) == [3, 7, 11, 15, 19]


def test_images_are_cropped_and_resized(tmp_path: Path) -> None:
    dataset = load(pack(tmp_path / "celeba.zip", celeba()), attributes=CHOSEN, crop=8, size=[16, 16])
    assert dataset.splits[Split.TRAIN].x.shape[1:] == (3, 16, 16)
    assert dataset.preprocessing.kind == "image"
    assert dataset.preprocessing.crop == 8


def test_what_else_celeba_comes_with_is_left_alone(tmp_path: Path) -> None:
    others = {"celeba/list_bbox_celeba.txt": b"x", "celeba/identity_CelebA.txt": b"y", "celeba/README.txt": b"z"}
    more_rows = celeba(30)["celeba/list_attr_celeba.txt"]
    files = {**celeba(), **others, "celeba/list_attr_celeba.txt": more_rows}
    dataset = load(pack(tmp_path / "celeba.zip", files), attributes=CHOSEN)
    assert sum(len(arrays.y) for arrays in dataset.splits.values()) == 20


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({}, "dataset.attributes", "Black_Hair, Blond_Hair, Male, Young"),
        (
            {"attributes": ["Young", "Smiling"]},
            "dataset.attributes",
            "no attribute 'Smiling'; the archive's attributes are Bl",
        ),
        ({"attributes": ["Young"]}, "dataset.attributes", "the teacher has 2 domains"),
        ({"attributes": CHOSEN, "class_order": CHOSEN}, "dataset.class_order", "leave it out"),
        ({"attributes": CHOSEN, "crop": 11}, "dataset.crop", "too small"),
        ({"attributes": CHOSEN, "task": Task.CLASSIFICATION}, None, "generator"),
        ({"attributes": CHOSEN, "channels": 4}, None, "upload arrays"),
    ],
)
def test_attributes_must_be_chosen_and_known(
    tmp_path: Path, changes: dict[str, Any], field: str | None, said: str
) -> None:
    refused = refusal(pack(tmp_path / "celeba.zip", celeba()), **changes)
    assert refused.field == field
    assert said in refused.detail


def attributes_with(change: tuple[str, str]) -> Files:
    text = celeba()["celeba/list_attr_celeba.txt"].decode()
    return {"celeba/list_attr_celeba.txt": text.replace(*change, 1).encode()}


@pytest.mark.parametrize(
    ("changed", "member", "said"),
    [
        (attributes_with(("20\n", "21\n")), "list_attr_celeba.txt", "20 rows follow"),
        (attributes_with(("20\n", "")), "list_attr_celeba.txt", "'Black_Hair"),
        ({"celeba/list_attr_celeba.txt": b""}, "list_attr_celeba.txt", "number of its rows"),
        (attributes_with(("Young", "Young Old")), "list_attr_celeba.txt", "4 values in line 3, but 5 attributes"),
        (attributes_with(("000004.png", "000003.png")), "list_attr_celeba.txt", "000003.png twice"),
        (attributes_with(("000004.png  -1", "000004.png  0")), "list_attr_celeba.txt", "'0' in line 7"),
        (attributes_with(("000004.png", "000099.png")), "000004.png", "no row"),
        ({"celeba/list_attr_celeba.txt": b"\xff"}, "celeba/list_attr_celeba.txt", "UTF-8"),
        ({"other/000077.png": picture(7, (10, 12))}, "other/000077.png", "another folder"),
        ({"celeba/labels.csv": b"a"}, "celeba/labels.csv", "not an image"),
        ({"celeba/list_eval_partition.txt": b"000000.png 0\n"}, "list_eval_partition.txt", "`000001.png 0`"),
        ({"celeba/list_eval_partition.txt": b"000000.png 3\n"}, "list_eval_partition.txt", "`000000.png 0`"),
        ({"celeba/img_align_celeba/000004.png": b"broken"}, "celeba/img_align_celeba/000004.png", "read as an image"),
    ],
)
def test_broken_lists_are_named(tmp_path: Path, changed: Files, member: str, said: str) -> None:
    refused = refusal(pack(tmp_path / "celeba.zip", {**celeba(), **changed}), attributes=["Black_Hair", "Young"])
    assert refused.member == member
    assert said in refused.detail


def test_folders_are_domains_too(tmp_path: Path) -> None:
    dataset = load(pack(tmp_path / "folders.zip", folders("")))
    assert dataset.classes == ["cats", "dogs"]
    for arrays in dataset.splits.values():
        assert arrays.y.tolist() == [[1.0, 0.0] if number < 150 else [0.0, 1.0] for number in numbers(arrays.x)]


@pytest.mark.parametrize("shape", ["integers", "attributes"])
def test_arrays_have_domains_as_integers_or_as_zeros_and_ones(tmp_path: Path, shape: str) -> None:
    x = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(3, 1).repeat(8, 2).repeat(8, 3)
    y = np.arange(20) % 2 if shape == "integers" else np.stack([np.arange(20) % 2, np.arange(20) % 3 == 0], 1)
    np.savez(tmp_path / "d.npz", x=x, y=y.astype(np.int64))
    dataset = load(tmp_path / "d.npz", class_order=["even", "odd"] if shape == "integers" else None)
    for arrays in dataset.splits.values():
        for number, own in zip(numbers(arrays.x), arrays.y.tolist(), strict=True):
            wanted = [number % 2 == 0, number % 2 == 1] if shape == "integers" else [number % 2 == 1, number % 3 == 0]
            assert own == [float(value) for value in wanted]


def test_attributes_of_other_data_are_refused(tmp_path: Path) -> None:
    refused = refusal(pack(tmp_path / "folders.zip", folders("")), attributes=["dogs", "cats"])
    assert refused.field == "dataset.attributes"
    assert "class_order" in refused.detail
