"""Parquet: images or texts, labels, splits, archives, and what hostile files come to."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_core.data import Dataset, DatasetError, Interface, Limits, load_dataset
from lit_spec import DatasetRequest, Modality, Split

Columns = dict[str, Any]

TEXT = Interface(None, 2, Modality.TEXT, vocabulary_size=69)


def load(path: Path, interface: Interface | None = None, *, limits: Limits | None = None, **request: Any) -> Dataset:
    asked = DatasetRequest(upload="upl_x", **request)
    return load_dataset(asked, None, path, interface or Interface(3, 2), limits=limits or Limits())


def refusal(path: Path, interface: Interface | None = None, **options: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load(path, interface, **options)
    return caught.value


def picture(value: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (5, 4), (value, value // 2, 7)).save(content, "PNG")
    return content.getvalue()


def structs(*values: int) -> pa.Array:
    """Images as Hugging Face's library has them."""
    return pa.array([{"bytes": picture(value), "path": f"{value}.png"} for value in values])


def hugging_face(names: dict[str, list[str]]) -> dict[str, str]:
    """The metadata that its library puts into a schema."""
    labels = {column: {"names": classes, "_type": "ClassLabel"} for column, classes in names.items()}
    features = {"image": {"_type": "Image"}, "pairs": [{"_type": "Value"}], **labels}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def encoded(columns: Columns, names: dict[str, list[str]] | None = None, **options: Any) -> bytes:
    table = pa.table(columns)
    if names is not None:
        table = table.replace_schema_metadata(hugging_face(names))
    content = io.BytesIO()
    pq.write_table(table, content, **options)
    return content.getvalue()


def written(tmp_path: Path, columns: Columns, names: dict[str, list[str]] | None = None, **options: Any) -> Path:
    path = tmp_path / "dataset"
    path.write_bytes(encoded(columns, names, **options))
    return path


def pack(path: Path, files: dict[str, bytes], kind: str = "zip") -> Path:
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{kind.partition('.')[2]}") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def red(x: torch.Tensor) -> list[int]:
    return x[:, 0, 0, 0].tolist()


def sorted_by_row(dataset: Dataset) -> list[tuple[int, int]]:
    """(red, label) of every sample."""
    parts = [zip(red(arrays.x), arrays.y.tolist(), strict=True) for arrays in dataset.splits.values()]
    return sorted(pair for part in parts for pair in part)


# --- images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "tar.", "tar.gz"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_an_archive_as_hugging_face_lays_it_out(tmp_path: Path, kind: str, shuffled: bool) -> None:
    names = {"label": ["cat", "dog"]}
    files = {
        "data/train-00000-of-00002.parquet": encoded({"image": structs(1, 2, 3), "label": [0, 1, 0]}, names),
        "data/train-00001-of-00002.parquet": encoded({"image": structs(4, 5), "label": [1, 0]}, names),
        "data/validation-00000-of-00001.parquet": encoded({"image": structs(101, 102), "label": [1, 0]}, names),
        "data/test-00000-of-00001.parquet": encoded({"image": structs(201), "label": [1]}, names),
    }
    if shuffled:
        files = dict(reversed(files.items()))
    dataset = load(pack(tmp_path / "dataset", {"README.md": b"hello", ".gitattributes": b"", **files}, kind))
    found = {split: (red(arrays.x), arrays.y.tolist()) for split, arrays in dataset.splits.items()}
    assert found == {"train": ([1, 2, 3, 4, 5], [0, 1, 0, 1, 0]), "val": ([101, 102], [1, 0]), "test": ([201], [1])}
    assert dataset.classes == ["cat", "dog"]
    assert dataset.splits[Split.TRAIN].x.shape == (5, 3, 4, 5)
    assert dataset.splits[Split.TRAIN].x.dtype == torch.uint8
    assert dataset.preprocessing.scale == 255


def test_split_folders_name_splits_too(tmp_path: Path) -> None:
    files = {
        f"default/{split}/000{number}.parquet": encoded({"img": structs(value), "label": [number]})
        for split, start in (("train", 1), ("val", 101), ("test", 201))
        for number, value in enumerate((start, start + 1))
    }
    dataset = load(pack(tmp_path / "dataset", files))
    assert [red(dataset.splits[split].x) for split in Split] == [[1, 2], [101, 102], [201, 202]]


@pytest.mark.parametrize(
    "split",
    [["train"] * 3 + ["Valid"] + ["test"] * 2, pa.array([0, 0, 0, 1, 2, 2], pa.int8())],
)
def test_one_file_with_splits_binary_images_and_columns_that_mean_nothing(tmp_path: Path, split: Any) -> None:
    columns = {
        "id": list(range(6)),
        "img": [picture(value) for value in range(6)],
        "label": [0, 1, 0, 1, 0, 1],
        "caption": ["a"] * 6,
        "split": split,
    }
    dataset = load(written(tmp_path, columns, row_group_size=4))
    assert [red(dataset.splits[s].x) for s in Split] == [[0, 1, 2], [3], [4, 5]]
    assert [dataset.splits[s].y.tolist() for s in Split] == [[0, 1, 0], [1], [0, 1]]
    assert dataset.classes == ["0", "1"]


def test_a_single_binary_column_of_any_name_holds_the_images(tmp_path: Path) -> None:
    columns = {"photograph": pa.array([picture(v) for v in range(30)], pa.large_binary()), "label": [0, 1, 1] * 10}
    assert sorted_by_row(load(written(tmp_path, columns))) == [(value, int(value % 3 > 0)) for value in range(30)]


def test_images_are_cropped_and_resized(tmp_path: Path) -> None:
    path = written(tmp_path, {"image": structs(*range(30)), "label": [0, 1] * 15})
    dataset = load(path, crop=2, size=[3, 3])
    assert dataset.splits[Split.TRAIN].x.shape[1:] == (3, 3, 3)
    assert [value for value, _ in sorted_by_row(dataset)] == list(range(30))
    error = refusal(path, crop=9)
    assert (error.field, error.member) == ("dataset.crop", "image[0]")


# --- labels ----------------------------------------------------------------------------------------------


def test_text_labels_are_sorted_or_as_the_request_orders_them(tmp_path: Path) -> None:
    labels = ["dog", "cat", "dog"] * 10
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        columns = {"image": structs(*range(30)), "label": pa.array(labels).cast(kind)}
        path = written(tmp_path, columns)
        dataset = load(path)
        assert dataset.classes == ["cat", "dog"]
        assert sorted_by_row(dataset) == [(row, int(name == "dog")) for row, name in enumerate(labels)]
    dataset = load(path, class_order=["dog", "cat"])
    assert sorted_by_row(dataset) == [(row, int(name == "cat")) for row, name in enumerate(labels)]


def test_class_order_rearranges_declared_names_and_names_plain_numbers(tmp_path: Path) -> None:
    columns = {"image": structs(*range(30)), "label": pa.array([0, 1, 1] * 10, pa.uint8())}
    declared = load(written(tmp_path, columns, {"label": ["cat", "dog"]}), class_order=["dog", "cat"])
    assert declared.classes == ["dog", "cat"]
    assert sorted_by_row(declared) == [(row, int(row % 3 == 0)) for row in range(30)]
    plain = load(written(tmp_path, columns), class_order=["dog", "cat"])
    assert plain.classes == ["dog", "cat"]
    assert sorted_by_row(plain) == [(row, int(row % 3 > 0)) for row in range(30)]


@pytest.mark.parametrize("names", [None, {"label": ["cat", "dog"]}])
@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32(), pa.float64()])
def test_null_and_the_label_that_the_request_names_are_no_labels(tmp_path: Path, names: Any, kind: pa.DataType) -> None:
    columns = {"image": structs(*range(30)), "label": pa.array([None, -1, 1] * 10, kind)}
    path = written(tmp_path, columns, names)
    dataset = load(path, class_order=["dog", "cat"], unlabelled=-1)
    kept = 0 if names else 1
    assert sorted_by_row(dataset) == [(row, kept if row % 3 == 2 else -1) for row in range(30)]
    error = refusal(path)
    assert (error.field, error.member) == ("dataset.unlabelled", "label[1]")
    assert "give dataset.unlabelled -1" in error.detail


def test_other_labels_may_mean_none(tmp_path: Path) -> None:
    path = written(tmp_path, {"image": structs(*range(30)), "label": pa.array([255, 0, 1] * 10, pa.uint8())})
    assert sorted_by_row(load(path, unlabelled="255")) == [(row, row % 3 - 1) for row in range(30)]
    assert refusal(path).member == "label[0]"
    named = written(tmp_path, {"image": structs(*range(30)), "label": ["unknown", "cat", "dog"] * 10})
    dataset = load(named, unlabelled="unknown")
    assert dataset.classes == ["cat", "dog"]
    assert sorted_by_row(dataset) == [(row, row % 3 - 1) for row in range(30)]
    unused = load(written(tmp_path, {"image": structs(*range(30)), "label": LABELS}), unlabelled="x")
    assert "no sample has the label x, which dataset.unlabelled names" in unused.notes


@pytest.mark.parametrize("names", [None, {"label": ["cat", "dog"]}])
def test_labels_that_are_all_minus_one_are_none_with_a_note(tmp_path: Path, names: Any) -> None:
    path = written(tmp_path, {"image": structs(*range(30)), "label": [-1] * 30}, names)
    assert "all labels are -1, which is read as no label" in load(path).notes
    dataset = load(path, unlabelled=-1)
    assert {label for _, label in sorted_by_row(dataset)} == {-1}
    assert not [note for note in dataset.notes if "-1" in note]


def test_minus_one_among_names(tmp_path: Path) -> None:
    path = written(tmp_path, {"image": structs(*range(30)), "label": ["-1", "0", "1"] * 10})
    assert refusal(path).field == "dataset.unlabelled"
    assert load(path, unlabelled=-1).classes == ["0", "1"]
    assert load(path, Interface(3, 3), class_order=["-1", "0", "1"]).splits[Split.TRAIN].labelled


# --- columns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Category", "y", "TARGET", "class", "mood_label"])
def test_columns_are_told_by_their_names(tmp_path: Path, name: str) -> None:
    columns = {"Image": structs(*range(30)), "thumb": structs(*range(30)), "width": [5] * 30, name: [0, 1, 1] * 10}
    dataset = load(written(tmp_path, columns))
    assert sorted_by_row(dataset) == [(row, int(row % 3 > 0)) for row in range(30)]
    assert dataset.notes[0] == "columns of the data set that are not used: thumb, width"


def test_columns_are_told_by_their_types(tmp_path: Path) -> None:
    labels = ["dog", "cat", "dog"] * 10
    dataset = load(written(tmp_path, {"a": structs(*range(30)), "b": labels, "c": [0.5] * 30, "id": list(range(30))}))
    assert dataset.classes == ["cat", "dog"]
    assert [note[:41] for note in dataset.notes[:2]] == [
        "columns of the data set that are not used"[:41],
        "the column b is read as the labels, because no other can be"[:41],
    ]
    text = written(tmp_path, {"a": ["ab", "de"] * 10, "b": [0, 1] * 10})
    assert load(text, TEXT, length=8).splits[Split.TRAIN].labelled
    error = refusal(written(tmp_path, {"a": structs(*range(30)), "b": labels, "width": [5] * 30}))
    assert (error.field, error.member) == ("dataset.columns", "b")
    assert "b, width" in error.detail
    assert "dataset.columns.label" in error.detail


def test_the_request_names_the_columns(tmp_path: Path) -> None:
    wrong = structs(*range(100, 130))
    path = written(tmp_path, {"image": wrong, "photo": structs(*range(30)), "label": [0] * 30, "kind": [0, 1, 1] * 10})
    dataset = load(path, columns={"image": "photo", "label": "kind"})
    assert sorted_by_row(dataset) == [(row, int(row % 3 > 0)) for row in range(30)]
    assert dataset.notes[0] == "columns of the data set that are not used: image, label"
    several = written(tmp_path, {"photo": structs(*range(30)), "width": [5] * 30, "path": ["x"] * 30})
    assert {label for _, label in sorted_by_row(load(several, columns={"image": "photo"}))} == {-1}
    text = written(tmp_path, {"b": ["x", "y"] * 10, "a": ["ab", "de"] * 10, "stars": [0.0, 1.0] * 10})
    found = load(text, TEXT, length=8, vocabulary="abdexy ", columns={"text": ["a", "b"], "label": "stars"})
    rows = {decoded(row, "abdexy ") for arrays in found.splits.values() for row in arrays.x}
    assert rows == {"ab x", "de y"}
    assert found.splits[Split.TRAIN].labelled


@pytest.mark.parametrize(
    ("columns", "field", "words"),
    [
        ({"label": "stars"}, "dataset.columns.label", ['"stars"', "the columns are image (", "label (int64)"]),
        ({"image": "photo"}, "dataset.columns.image", ['"photo"', "label (int64)"]),
        ({"image": "label"}, "dataset.columns.image", ["the column label holds no images"]),
        ({"text": "label"}, "dataset.columns.text", ["the teacher takes images"]),
    ],
)
def test_names_that_are_not_those_of_columns(tmp_path: Path, columns: Any, field: str, words: list[str]) -> None:
    error = refusal(written(tmp_path, {"image": structs(*range(30)), "label": [0, 1] * 15}), columns=columns)
    assert error.field == field
    for word in words:
        assert word in error.detail


def test_without_a_label_column_nothing_has_a_label(tmp_path: Path) -> None:
    dataset = load(written(tmp_path, {"image": structs(*range(30)), "id": list(range(30))}))
    assert {label for _, label in sorted_by_row(dataset)} == {-1}
    assert not dataset.splits[Split.TRAIN].labelled
    assert dataset.classes == ["0", "1"]


def test_one_split_may_lack_labels(tmp_path: Path) -> None:
    files = {
        "train.parquet": encoded({"image": structs(*range(30))}),
        "test.parquet": encoded({"image": structs(201, 202), "label": ["dog", "cat"]}),
    }
    dataset = load(pack(tmp_path / "dataset", files))
    assert dataset.splits[Split.TRAIN].y.unique().tolist() == [-1]
    assert dataset.splits[Split.TEST].y.tolist() == [1, 0]
    assert dataset.classes == ["cat", "dog"]


def test_of_two_label_columns_the_one_with_the_teacher_s_classes_is_meant(tmp_path: Path) -> None:
    columns = {"img": structs(*range(30)), "fine_label": [2, 0, 1] * 10, "coarse_label": [0, 1, 1] * 10}
    names = {"fine_label": ["a", "b", "c"], "coarse_label": ["x", "y"]}
    path = written(tmp_path, columns, names)
    fine, coarse = load(path, Interface(3, 3)), load(path, Interface(3, 2))
    assert fine.classes == ["a", "b", "c"]
    assert sorted_by_row(fine) == [(row, [2, 0, 1][row % 3]) for row in range(30)]
    assert coarse.classes == ["x", "y"]
    assert sorted_by_row(coarse) == [(row, int(row % 3 > 0)) for row in range(30)]
    error = refusal(written(tmp_path, columns))
    assert "fine_label, coarse_label" in error.detail


# --- texts -----------------------------------------------------------------------------------------------


def decoded(row: torch.Tensor, vocabulary: str) -> str:
    return "".join(vocabulary[place - 2] for place in row.tolist() if place)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"id": ["7"] * 20, "text": ["ab c", "de"] * 10}, ["ab c", "de"]),
        ({"title": ["ab", "de"] * 10, "content": ["c", "f"] * 10, "id": ["7"] * 20}, ["ab c", "de f"]),
        ({"sentence": pa.array(["ab", "de"] * 10).dictionary_encode(), "other": ["x"] * 20}, ["ab", "de"]),
        ({"review": ["ab", "de"] * 10}, ["ab", "de"]),
    ],
)
@pytest.mark.parametrize("labels", [[0, 1] * 10, ["good", "poor"] * 10])
def test_texts_for_a_teacher_that_takes_them(
    tmp_path: Path, columns: Columns, expected: list[str], labels: list[Any]
) -> None:
    path = written(tmp_path, {"label": labels, **columns, "split": ["train"] * 12 + ["val"] * 4 + ["test"] * 4})
    dataset = load(path, TEXT, length=8, vocabulary="abcdef ")
    train = dataset.splits[Split.TRAIN]
    assert [decoded(row, "abcdef ") for row in train.x] == expected * 6
    assert train.y.tolist() == [0, 1] * 6
    assert train.x.dtype == torch.uint8
    assert dataset.classes == (["0", "1"] if labels[0] == 0 else ["good", "poor"])


def test_texts_over_several_batches(tmp_path: Path) -> None:
    texts = [f"{number:08}" for number in range(1000)]
    dataset = load(written(tmp_path, {"text": texts}, row_group_size=300), TEXT, length=8, vocabulary="0123456789")
    found = [decoded(row, "0123456789") for arrays in dataset.splits.values() for row in arrays.x]
    assert sorted(found) == texts


# --- refusals --------------------------------------------------------------------------------------------

IMAGES = [picture(value) for value in range(30)]
LABELS = [0, 1, 1] * 10


@pytest.mark.parametrize(
    ("columns", "member", "words"),
    [
        ({"label": LABELS}, None, ["no column holds", "dataset.columns.image", "label (int64)"]),
        ({"image": ["a.png"] * 30, "label": LABELS}, None, ["no column holds", "image (string)"]),
        ({"image": IMAGES, "img": IMAGES, "label": LABELS}, None, ["several columns", "image (binary), img (binary)"]),
        ({"a": IMAGES, "b": IMAGES, "label": LABELS}, None, ["several columns", "a (binary), b (binary)"]),
        ({"image": [*IMAGES[:29], None], "label": LABELS}, "image[29]", ["no image", "path"]),
        ({"image": [{"bytes": None, "path": "a"}, *({"bytes": i} for i in IMAGES[1:])]}, "image[0]", ["no image"]),
        ({"image": [*IMAGES[:7], b"none", *IMAGES[8:]], "label": LABELS}, "image[7]", ["as an image"]),
        ({"image": [*IMAGES[:7], IMAGES[7][:50], *IMAGES[8:]], "label": LABELS}, "image[7]", ["truncated"]),
        ({"image": IMAGES, "label": [*LABELS[:4], 2, *LABELS[5:]]}, "label[4]", ["is 2", "2 classes", "0..1"]),
        ({"image": IMAGES, "label": [*LABELS[:4], -2, *LABELS[5:]]}, "label[4]", ["is -2", "-1"]),
        ({"image": IMAGES, "label": pa.array([2**64 - 1] * 30, pa.uint64())}, "label[0]", ["is 18446744073709551615"]),
        ({"image": IMAGES, "label": [1.0, 0.5, None] * 10}, "label[1]", ["label[1] is 0.5", "integers or texts"]),
        ({"image": IMAGES, "label": [0.0, float("nan")] * 15}, "label[1]", ["label[1] is nan"]),
        ({"image": IMAGES, "label": [[0]] * 30}, "label[0]", ["integers or texts"]),
        ({"image": IMAGES, "label": ["a", "b", "c"] * 10}, None, ["3 classes (a, b, c)", "teacher has 2"]),
        ({"image": IMAGES, "label": ["a"] * 30}, None, ["1 classes (a)", "teacher has 2", "class_order"]),
        ({"image": IMAGES, "label": LABELS, "split": [*["train"] * 29, "held"]}, "split[29]", ["held", '"val"']),
        ({"image": IMAGES, "label": LABELS, "split": [*[0] * 29, 3]}, "split[29]", ["is 3", "0, 1 or 2"]),
        ({"image": IMAGES, "label": LABELS, "split": [*["train"] * 29, None]}, "split[29]", ["None", '"val"']),
        ({"image": IMAGES, "label": LABELS, "split": [0.5] * 30}, "split", ["split", "double"]),
        ({"image": IMAGES, "label": LABELS, "split": ["val"] * 30}, "train", ['"train" is empty']),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, None, ["no rows"]),
    ],
)
def test_refusals_name_the_cell(tmp_path: Path, columns: Columns, member: str | None, words: list[str]) -> None:
    error = refusal(written(tmp_path, columns))
    assert error.member == member
    for word in words:
        assert word in error.detail


@pytest.mark.parametrize(
    ("columns", "member", "words"),
    [
        ({"image": IMAGES, "label": LABELS}, None, ["no column holds the texts", "image (binary)"]),
        ({"a": ["x"] * 30, "b": ["y"] * 30}, None, ["several columns", "text"]),
        ({"text": ["x"] * 29 + [None]}, "text[29]", ["no text"]),
    ],
)
def test_refusals_of_texts(tmp_path: Path, columns: Columns, member: str | None, words: list[str]) -> None:
    error = refusal(written(tmp_path, columns), TEXT, length=8)
    assert error.member == member
    for word in words:
        assert word in error.detail


def test_classes_that_are_not_the_teacher_s(tmp_path: Path) -> None:
    columns = {"image": structs(*range(30)), "label": LABELS}
    error = refusal(written(tmp_path, columns, {"label": ["a", "b", "c"]}))
    assert "3 classes (a, b, c), but the teacher has 2" in error.detail
    for path in (
        written(tmp_path, columns, {"label": ["cat", "dog"]}),
        written(tmp_path, {**columns, "label": ["cat", "dog", "dog"] * 10}),
    ):
        error = refusal(path, class_order=["cat", "emu"])
        assert (error.field, error.member) == ("dataset.class_order", "dog")


@pytest.mark.parametrize("metadata", [b"{", b"[1]", b'{"info": {"features": 3}}', b"[" * 100_000])
def test_broken_metadata(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"image": IMAGES, "label": LABELS}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "dataset")
    assert "Hugging Face" in refusal(tmp_path / "dataset").detail


@pytest.mark.parametrize("names", [["a", "a"], ["a", 3], "ab"])
def test_class_names_that_are_none(tmp_path: Path, names: Any) -> None:
    error = refusal(written(tmp_path, {"image": structs(1), "label": [0]}, {"label": names}))
    assert "texts that differ" in error.detail


@pytest.mark.parametrize(
    ("extra", "member", "words"),
    [
        ({"labels.csv": b"1,2"}, "labels.csv", ["no Parquet file", "README"]),
        ({"extra.parquet": encoded({"image": IMAGES, "label": LABELS})}, "extra.parquet", ["no split", "train"]),
        ({"val.parquet": encoded({"image": IMAGES, "label": ["a"] * 30})}, None, ["texts in one file", "val.parquet"]),
        ({"val.parquet": b"PAR1 and no more"}, "val.parquet", ["damaged"]),
        ({"val.parquet": encoded({"label": LABELS})}, None, ["no column holds", "val.parquet"]),
        ({"val.parquet": encoded({"img": [b"x"]})}, "val.parquet: img[0]", ["as an image"]),
        (
            {"val.parquet": encoded({"image": IMAGES, "label": LABELS}, {"label": ["b", "a"]})},
            "label",
            ["differ between the files"],
        ),
    ],
)
def test_refusals_name_the_file(tmp_path: Path, extra: dict[str, bytes], member: str | None, words: list[str]) -> None:
    train = encoded({"image": IMAGES, "label": LABELS}, {"label": ["a", "b"]})
    error = refusal(pack(tmp_path / "dataset", {"train.parquet": train, **extra}))
    assert error.member == member
    for word in words:
        assert word in error.detail


# --- hostile files ---------------------------------------------------------------------------------------


def test_limits(tmp_path: Path) -> None:
    wide = io.BytesIO()
    Image.new("L", (100, 100)).save(wide, "BMP")
    bomb = written(tmp_path, {"image": [wide.getvalue()] * 200, "label": [0, 1] * 100})
    assert bomb.stat().st_size < 20_000
    for limits, words in (
        (Limits(ratio_from_bytes=100_000), "decompression bombs"),
        (Limits(total_bytes=1_000_000), "more than 1000000 bytes"),
        (Limits(samples=100), "200 rows"),
        (Limits(member_bytes=5_000), "at most 5000"),
        (Limits(image_pixels=9_999), "more pixels"),
    ):
        assert words in refusal(bomb, size=[4, 4], limits=limits).detail
    assert "set a smaller dataset.size" in refusal(bomb, size=[4096, 4096], limits=Limits(total_bytes=1 << 30)).detail
    texts = written(tmp_path, {"text": ["a"] * 100})
    assert refusal(texts, TEXT, length=1000, limits=Limits(total_bytes=50_000)).field == "dataset.length"


def test_a_large_file_is_never_in_memory(tmp_path: Path) -> None:
    """One group of rows with 32 MiB of images, of which Arrow holds some pages at a time, here of 1 MiB."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "BMP")
    rows = 700
    path = written(
        tmp_path,
        {"image": [content.getvalue()] * rows, "label": [0, 1] * (rows // 2)},
        use_dictionary=False,
        compression="none",
        row_group_size=rows,
        write_batch_size=8,
    )
    assert path.stat().st_size > 32 << 20
    code = """
import sys
from pathlib import Path
import pyarrow
from lit_core.data import Interface, load_dataset
from lit_spec import DatasetRequest
load_dataset(DatasetRequest(upload="u", size=[4, 4]), None, Path(sys.argv[1]), Interface(3, 2))
print(pyarrow.default_memory_pool().max_memory())
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 8 << 20


def test_a_file_cut_off_or_encrypted(tmp_path: Path) -> None:
    path = written(tmp_path, {"image": IMAGES, "label": LABELS})
    content = path.read_bytes()
    for broken in (content[:-20], content[:4], content[:-4] + b"PARE"):
        path.write_bytes(broken)
        assert "damaged, encrypted" in refusal(path).detail


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbled_files_are_read_or_refused_but_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    texts = data.draw(st.booleans())
    columns = {"text": ["ab", "cd"] * 6} if texts else {"image": structs(*range(12))}
    columns |= {"label": ["x", "y"] * 6 if texts else [0, 1] * 6, "split": ["train"] * 8 + ["val", "test"] * 2}
    content = bytearray(encoded(columns, {"label": ["x", "y"]}, row_group_size=5))
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of them near the end, where the file says what it holds.
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(len(content) - 900, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "dataset"
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(1, len(content)))])
    try:
        load(path, TEXT if texts else None, limits=Limits(total_bytes=1 << 26))
    except DatasetError as error:
        error.detail.encode("utf-8")


def test_reading_other_data_loads_no_pyarrow() -> None:
    code = "import sys, lit_core.data; sys.exit('pyarrow' in sys.modules or 'torchvision' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
