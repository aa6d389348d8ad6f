"""Texts in CSV and TSV files and in archives of them."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_core.data import Dataset, DatasetError, Interface, Limits, load_dataset
from lit_core.data.readers.rows import ROW_BYTES
from lit_core.data.text_preprocessing import UNKNOWN, TextPreprocessing
from lit_spec import DatasetRequest, Modality, Split

LENGTH = 12
Files = dict[str, str | bytes]


def load(path: Path, *, classes: int = 2, limits: Limits | None = None, **request: Any) -> Dataset:
    asked = DatasetRequest(upload="upl_x", length=LENGTH, **request)
    teacher = Interface(None, classes, Modality.TEXT, vocabulary_size=69)
    return load_dataset(asked, None, path, teacher, limits=limits or Limits())


def refusal(path: Path, **options: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load(path, **options)
    return caught.value


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "dataset"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pack(folder: Path, files: Files, kind: str = "zip") -> Path:
    path = folder / "dataset"
    contents = {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{kind}") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def texts(dataset: Dataset, split: Split | None = None) -> dict[str, str | None]:
    """Class name by text, as the network would see it: cut, padding left out."""
    preprocessing = dataset.preprocessing
    assert isinstance(preprocessing, TextPreprocessing)
    characters = ["", "?", *preprocessing.vocabulary]
    found = {}
    for part in [split] if split else list(Split):
        arrays = dataset.splits[part]
        for row, label in zip(arrays.x.tolist(), arrays.y.tolist(), strict=True):
            found["".join(characters[place] for place in row)] = None if label < 0 else dataset.classes[label]
    return found


def rows(labels: str, count: int = 10, separator: str = ",") -> str:
    """`count` rows of each label: `a,a0`, `b,b0`, `a,a1`, …"""
    return "".join(f"{label}{separator}{label}{row}\n" for row in range(count) for label in labels)


SPLITS = {"train.csv": rows("12", 5), "val.csv": rows("12", 1), "test.csv": rows("21", 2)}


# --- one file -----------------------------------------------------------------------------------------------


def test_the_layout_of_zhang_et_al(tmp_path: Path) -> None:
    made = "".join(f'"{1 + row % 2}","Title {row}","B""{row}"", x"\r\n' for row in range(20))
    dataset = load(write(tmp_path, made))
    assert dataset.classes == ["1", "2"]
    assert {split.value: len(arrays.y) for split, arrays in dataset.splits.items()} == {
        "train": 16,
        "val": 2,
        "test": 2,
    }
    found = texts(dataset)
    assert found['title 3 b"3"'] == "2"
    assert len(found) == 20
    assert dataset.splits[Split.TRAIN].x.dtype == torch.uint8


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (rows("ab"), "a9"),
        (rows("ab", separator="\t"), "b0"),
        ("\n\n" + rows("ab", separator="\t"), "b0"),
        (rows("ab", separator="\t") + 'a\t"no, quotes"\n', '"no, quotes"'),
        (rows("ab") + 'a,"two\nlines"\n', "two?lines"),
        (rows("ab") + "\n\n" + 'b,"é, UP"', "?, up"),
        ("\ufeff" + rows("ab"), "a0"),
        ("label,text\n" + rows("ab"), "a0"),
        ("class\ttext\n" + rows("ab", separator="\t"), "a0"),
        (rows("ab").replace("\n", "\r\n"), "b9"),
    ],
)
def test_csv_and_tsv_are_told_apart_by_what_is_in_them(tmp_path: Path, content: str, wanted: str) -> None:
    dataset = load(write(tmp_path, content))
    found = texts(dataset)
    assert wanted in found
    assert dataset.classes == ["a", "b"]
    assert len(found) in (20, 21)
    assert "text" not in found


def test_texts_are_cut_and_padded(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, rows("12") + "1,abcdefghijklmnop\n"))
    assert texts(dataset)["abcdefghijkl"] == "1"
    long = next(x for arrays in dataset.splits.values() for x in arrays.x.tolist() if x[0] == 2)
    assert long == list(range(2, 2 + LENGTH))


def test_integers_ascend_and_names_are_sorted_unless_an_order_is_given(tmp_path: Path) -> None:
    numbers = write(tmp_path, "".join(f"{label},{label} {row}\n" for row in range(9) for label in (10, -2, 9)))
    assert load(numbers, classes=3).classes == ["-2", "9", "10"]
    assert texts(load(numbers, classes=3))["10 3"] == "10"
    ordered = load(numbers, classes=4, class_order=["10", "7", "9", "-2"])
    assert ordered.classes == ["10", "7", "9", "-2"]
    assert texts(ordered) == texts(load(numbers, classes=3))
    assert int(ordered.splits[Split.TEST].y.max()) == 3
    mixed = write(tmp_path, "".join(f"{label},{label} {row}\n" for row in range(9) for label in ("b", "10", "9")))
    assert load(mixed, classes=3).classes == ["10", "9", "b"]


def test_a_first_row_is_a_header_only_if_its_label_is_nowhere_else(tmp_path: Path) -> None:
    assert "text" not in texts(load(write(tmp_path, "label,text\n" + rows("12"))))
    assert texts(load(write(tmp_path, "b,text\n" + rows("ab"))))["text"] == "b"
    assert texts(load(write(tmp_path, "3,text\n" + rows("12")), classes=3))["text"] == "3"
    ordered = load(write(tmp_path, "c,text\n" + rows("ab")), classes=3, class_order=["a", "b", "c"])
    assert texts(ordered)["text"] == "c"


def test_an_empty_label_is_none(tmp_path: Path) -> None:
    half = load(write(tmp_path, "label,text\n" + rows("ab") + "".join(f",x{row}\n" for row in range(10))))
    assert texts(half)["x3"] is None
    assert texts(half)["a3"] == "a"
    assert not half.splits[Split.TRAIN].labelled
    none = load(write(tmp_path, "label,text\n" + "".join(f",x{row}\n" for row in range(10))), classes=3)
    assert none.classes == ["0", "1", "2"]
    assert set(texts(none).values()) == {None}
    named = load(write(tmp_path, "".join(f",x{row}\n" for row in range(10))), class_order=["no", "yes"])
    assert named.classes == ["no", "yes"]


def test_labels_can_be_hidden_and_samples_left_out_as_with_images(tmp_path: Path) -> None:
    path = write(tmp_path, rows("12", 20))
    hidden = load(path, labels=False)
    assert set(texts(hidden, Split.TRAIN).values()) == {None}
    assert set(texts(hidden, Split.TEST).values()) == {"1", "2"}
    few = load(path, train_samples=8, validation_fraction=0.2)
    assert torch.bincount(few.splits[Split.TRAIN].y).tolist() == [4, 4]
    assert len(few.splits[Split.VALIDATION].y) == 8
    assert texts(few, Split.TEST) == texts(load(path), Split.TEST)


def test_a_vocabulary_of_ones_own(tmp_path: Path) -> None:
    vocabulary = "".join(chr(0x4E00 + place) for place in range(300))
    asked = DatasetRequest(upload="upl_x", length=LENGTH, vocabulary=vocabulary, lowercase=False)
    teacher = Interface(None, 2, Modality.TEXT, vocabulary_size=400)
    path = write(tmp_path, "".join(f"{row % 2},{chr(0x4E00 + 299)}A\n" for row in range(10)))
    dataset = load_dataset(asked, None, path, teacher)
    assert dataset.splits[Split.TRAIN].x.dtype == torch.int16
    assert dataset.splits[Split.TRAIN].x[0, :3].tolist() == [301, UNKNOWN, 0]


def objects(names: str = "ab", count: int = 10) -> str:
    return "".join(
        json.dumps({"id": row, "text": f"{label}{row}", "label": label}) + "\n"
        for row in range(count)
        for label in names
    )


@pytest.mark.parametrize(
    ("content", "wanted", "notes"),
    [
        (rows("ab", separator=";"), "a9", []),
        (rows("ab", separator="|"), "a9", []),
        (rows("ab", separator=";").replace(";", ";x, "), "x, a9", []),
        ("label;text\n" + rows("ab", separator=";"), "a9", []),
        ("sep=;\n" + rows("ab", separator=";"), "a9", []),
        ("sep=;\nlabel;text\n" + rows("ab", separator=";"), "a9", []),
        ("text,label\n" + "".join(f"{label}{n},{label}\n" for n in range(10) for label in "ab"), "a9", []),
        ("Text\tClass\n" + "".join(f"{label}{n}\t{label}\n" for n in range(10) for label in "ab"), "a9", []),
        (",label,text\n" + "".join(f"{n},{label},{label}{n}\n" for n in range(10) for label in "ab"), "a9", []),
        (
            "lang,text,label\n" + "".join(f"en,{label}{n},{label}\n" for n in range(10) for label in "ab"),
            "a9",
            ["columns of the data set that are not used: lang"],
        ),
        (
            "sentence1,sentence2,label\n" + "".join(f"{label}{n},z,{label}\n" for n in range(10) for label in "ab"),
            "a9 z",
            [],
        ),
        (objects(), "a9", []),
        (objects().replace('"id"', '"lang"'), "a9", ["columns of the data set that are not used: lang"]),
        (
            re.sub('"id": ', '"id": [], "b": 1, "c": ', objects()),
            "a9",
            ["columns of the data set that are not used: b, c"],
        ),
    ],
)
def test_separators_headers_and_json_lines_are_told_by_the_first_rows(
    tmp_path: Path, content: str, wanted: str, notes: list[str]
) -> None:
    dataset = load(write(tmp_path, content))
    found = texts(dataset)
    assert found[wanted] == "a"
    assert len(found) == 20
    assert dataset.classes == ["a", "b"]
    assert dataset.notes[:-1] == notes


def test_a_header_without_a_label_is_of_unlabelled_texts(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, "id,text\n" + "".join(f"{n},x{n}\n" for n in range(10))))
    assert set(texts(dataset).values()) == {None}
    assert "x3" in texts(dataset)


def test_integers_that_are_written_as_floats_are_integers(tmp_path: Path) -> None:
    made = "".join(f"{label},{label} {row}\n" for row in range(9) for label in ("10.0", "2", "9."))
    dataset = load(write(tmp_path, made), classes=3)
    assert dataset.classes == ["2", "9", "10"]
    assert texts(dataset)["10.0 3"] == "10"
    assert load(write(tmp_path, made), classes=3, class_order=["10.0", "2", "9"]).classes == ["10.0", "2", "9"]


def test_floats_of_json_lines_are_integers(tmp_path: Path) -> None:
    made = "".join(
        json.dumps({"label": label, "text": f"{label} {row}"}) + "\n" for row in range(9) for label in (10.0, 2)
    )
    assert load(write(tmp_path, made)).classes == ["2", "10"]


STARS = "stars,who,review,title\n" + "".join(f"{n % 2},me,r{n},t{n}\n" for n in range(10))


@pytest.mark.parametrize(
    ("content", "columns", "wanted", "labels", "unused"),
    [
        (STARS, {"text": "review", "label": "stars"}, "r3", {"0", "1"}, "who, title"),
        (STARS, {"text": ["title", "review"], "label": "stars"}, "t3 r3", {"0", "1"}, "who"),
        (
            STARS.replace("stars", "Stars, all").replace("Stars, all", '"Stars, all"'),
            {"label": "Stars, all"},
            "r3 t3",
            {"0", "1"},
            "who",
        ),
        (STARS, {"text": "who", "label": "title"}, "me", {f"t{n}" for n in range(10)}, "stars, review"),
        (STARS, {"text": "review"}, "r3", {None}, "stars, who, title"),
        (STARS.replace("stars", "label"), {"text": ["review"]}, "r3", {"0", "1"}, "who, title"),
        (STARS.replace(",", "\t"), {"text": "review", "label": "stars"}, "r3", {"0", "1"}, "who, title"),
        ("sep=;\n" + STARS.replace(",", ";"), {"text": "review", "label": "stars"}, "r3", {"0", "1"}, "who, title"),
        (
            "".join(json.dumps({"a": f"r{n}", "b": n % 2, "text": "no"}) + "\n" for n in range(10)),
            {"text": "a", "label": "b"},
            "r3",
            {"0", "1"},
            "text",
        ),
    ],
)
def test_the_request_names_the_columns(
    tmp_path: Path, content: str, columns: Any, wanted: str, labels: set[str | None], unused: str
) -> None:
    path = write(tmp_path, content)
    dataset = load(path, columns=columns, classes=max(2, len(labels)))
    assert wanted in texts(dataset)
    assert {*texts(dataset).values()} <= labels
    assert dataset.notes[0] == f"columns of the data set that are not used: {unused}"
    archive = pack(tmp_path, {"train.csv": content, "test.csv": content})
    assert wanted in texts(load(archive, columns=columns, classes=max(2, len(labels))), Split.TEST)


@pytest.mark.parametrize(
    ("content", "columns", "field", "says"),
    [
        (
            STARS,
            {"label": "Stars"},
            "dataset.columns.label",
            'names "Stars", but the file has the columns stars, who, review, title',
        ),
        (STARS, {"text": ["review", "x"]}, "dataset.columns.text", 'names "x", but'),
        (STARS.replace("who", "review"), {"text": "review"}, "dataset.columns.text", 'names "review", but'),
        ('{"a": 1, "b": "x"}\n' * 9, {"text": "c"}, "dataset.columns.text", "the file has the columns a, b"),
        (rows("12"), {"label": "label"}, "dataset.columns.label", "the file has the columns 1, 10"),
        (STARS, {"image": "review"}, "dataset.columns.image", "the teacher takes texts"),
        ("label,id\n1,2\n", {"label": "label"}, "dataset.columns", "no column of texts"),
    ],
)
def test_names_that_are_not_those_of_columns(tmp_path: Path, content: str, columns: Any, field: str, says: str) -> None:
    error = refusal(write(tmp_path, content), columns=columns)
    assert error.field == field
    assert says in error.detail


def test_data_without_columns(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array(["a"] * 10), y=np.arange(10) % 2)
    error = refusal(write(tmp_path, buffer.getvalue()), columns={"text": "x"})
    assert (error.field, error.detail) == (
        "dataset.columns",
        "the file is npz, which has no columns: leave dataset.columns out",
    )


def test_minus_one_among_other_labels_is_asked_about(tmp_path: Path) -> None:
    signs = "".join(f"{label},{label} {row}\n" for row in range(9) for label in (1, -1))
    for content, classes in (
        (signs, 2),
        (signs + "0,0 9\n", 2),
        (objects().replace('"a"', "-1"), 2),
        (signs.replace("-1,", "-1.0,"), 2),
    ):
        error = refusal(write(tmp_path, content), classes=classes)
        assert error.field == "dataset.unlabelled"
        assert "is -1, and other samples have other labels: give dataset.unlabelled -1" in error.detail
    half = load(write(tmp_path, signs + "0,0 9\n"), unlabelled="-1")
    assert half.classes == ["0", "1"]
    assert texts(half)["-1 3"] is None
    assert load(write(tmp_path, signs), class_order=["-1", "1"]).splits[Split.TRAIN].labelled


def test_a_name_may_mean_that_there_is_no_label(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, rows("abx")), unlabelled="x")
    assert dataset.classes == ["a", "b"]
    assert texts(dataset)["x3"] is None
    notes = load(write(tmp_path, rows("ab")), unlabelled="none").notes
    assert "no sample has the label none, which dataset.unlabelled names" in notes


def test_classes_whose_names_are_nearly_the_same_are_told(tmp_path: Path) -> None:
    dataset = load(
        write(tmp_path, "".join(f"{one},{one} {n}\n" for n in range(9) for one in ("Neg", "neg", "pos"))), classes=3
    )
    assert dataset.notes[0] == "classes whose names differ by case, spaces or Unicode form alone: Neg and neg"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("<!DOCTYPE html>\n<html><body>404, not found</body></html>\n", "HTML or XML"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 123\n", "`git lfs pull` has to fetch"),
        ("- {label: 0, text: hello}\n" * 9, "YAML"),
        ('[{"label": 0, "text": "hello"}]\n', "one JSON document"),
        ('[\n{"label": 0, "text": "hello"}\n]\n', "one JSON document"),
        ("__label__0 some text\n" * 9, "in fastText's format"),
        ('{"a": 1, "b": "x"}\n' * 9, "has objects of a, b: name the columns in dataset.columns"),
        (objects() + "[1]\n", "line 21 is no JSON object"),
        (objects() + "{\n", "line 21 is no JSON ("),
        (objects() + '{"label": "a"}\n', 'line 21 has no text in "text"'),
        (objects() + '{"label": ["a"], "text": "x"}\n', "line 21 has a list as its label"),
        (rows("12").replace("\n", "\r"), "end with a carriage return alone"),
        (rows("12", separator=";") + "1;a;b\n", "put texts with semicolons into quotes"),
        ("sep=;\n" + rows("12", separator=";") + "1;a;b\n", "line 22 has 3 columns"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, content: str, says: str) -> None:
    assert says in refusal(write(tmp_path, content)).detail


# --- archives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "", "gz", "xz"])
@pytest.mark.parametrize("folder", ["", "ag_news_csv/"])
def test_an_archive_of_splits(tmp_path: Path, kind: str, folder: str) -> None:
    files = {f"{folder}{name}": content for name, content in SPLITS.items()}
    ignored = {f"{folder}readme.txt": "read me", f"{folder}.DS_Store": b"\0", "__MACOSX/train.csv": b"\0"}
    dataset = load(pack(tmp_path, files | ignored, kind))
    assert [len(dataset.splits[split].y) for split in Split] == [10, 2, 4]
    assert list(texts(dataset, Split.TEST)) == ["20", "10", "21", "11"]
    assert texts(dataset, Split.TRAIN)["24"] == "2"


def test_a_single_file_of_any_name_has_no_splits(tmp_path: Path) -> None:
    for kind in ("zip", "gz"):
        dataset = load(pack(tmp_path, {"data/reviews.jsonl": objects(), "readme.md": "x"}, kind))
        assert [len(dataset.splits[split].y) for split in Split] == [16, 2, 2]
        assert texts(dataset)["b3"] == "b"


def test_each_file_of_an_archive_has_its_own_columns(tmp_path: Path) -> None:
    files: Files = {
        "training.csv": "text;label\n" + "".join(f"{label}{n};{label}\n" for n in range(5) for label in "ab"),
        "dev.jsonl": objects(count=2),
        "test.tsv": rows("ab", 3, "\t"),
    }
    dataset = load(pack(tmp_path, files, "gz"))
    assert [len(dataset.splits[split].y) for split in Split] == [10, 4, 6]
    assert texts(dataset)["a4"] == "a"


def test_the_order_of_members_changes_nothing(tmp_path: Path) -> None:
    files: Files = {"train.csv": SPLITS["train.csv"], "test.tsv": "label\ttext\n" + rows("12", 2, "\t")}
    one, other = load(pack(tmp_path, files)), load(pack(tmp_path, dict(reversed(files.items()))))
    assert one.classes == other.classes
    for split in Split:
        assert torch.equal(one.splits[split].x, other.splits[split].x)
        assert torch.equal(one.splits[split].y, other.splits[split].y)
    assert len(one.splits[Split.VALIDATION].y) == 1


def test_unlabelled_texts_to_learn_from_and_labelled_ones_to_measure_by(tmp_path: Path) -> None:
    files: Files = {"train.csv": "".join(f",x{row}\n" for row in range(8)), "test.csv": rows("ab", 3)}
    dataset = load(pack(tmp_path, files))
    assert set(texts(dataset, Split.TRAIN).values()) == {None}
    assert texts(dataset, Split.TEST)["b2"] == "b"
    assert dataset.splits[Split.TEST].labelled


def test_class_names_lie_beside_the_files(tmp_path: Path) -> None:
    dataset = load(pack(tmp_path, {**SPLITS, "classes.txt": "World\nSports\n"}))
    assert dataset.classes == ["World", "Sports"]
    assert texts(dataset)["23"] == "Sports"
    assert load(pack(tmp_path, {**SPLITS, "classes.txt": "World\nSports\n"}), class_order=["2", "1"]).classes == [
        "2",
        "1",
    ]
    unused = load(pack(tmp_path, {"train.csv": rows("31"), "classes.txt": "\ufeffx\ny\nz\n"}), classes=3)
    assert texts(unused)["30"] == "z"


def test_arrays_of_texts_are_read_as_well(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([f"text {row}" for row in range(10)]), y=np.arange(10) % 2)
    assert texts(load(write(tmp_path, buffer.getvalue())))["text 3"] == "1"


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says", "member"),
    [
        (rows("12") + "3,x\n", 'the label "3", but the teacher has 2 classes', "line 21"),
        (rows("12") + "1\n", "one column", "line 21"),
        (rows("12") + "1,a,b\n", "3 columns, but the first row has 2: put texts with commas into quotes", "line 21"),
        (rows("12", separator="\t") + "1\ta\tb\n", "take tabs out of texts", "line 21"),
        (rows("12") + '1,"never closed\n' + rows("12"), "can't be read", "line 21"),
        (rows("12") + '1,"closed" too early\n', "can't be read", "line 21"),
        (rows("12").encode() + b"1,caf\xe9\n", "not UTF-8", "line 21"),
        (rows("12") + '1,"' + "\n" * 200_000, "more than 131,072 characters", "line 21"),
        (rows("12") + "1," + "x" * 200_000, "more than 131,072 characters", "line 21"),
        (rows("12") + '1,"' + '","'.join("\n" for _ in range(ROW_BYTES // 3)), "more than 1048576 bytes", None),
        (rows("12") + "1," + "x" * (ROW_BYTES + 1), "more than 1048576 bytes", "line 21"),
        (rows("1"), "1 labels (1), but the teacher has 2 classes", None),
        ("label,text\n", "no texts", None),
        ("\n\n", "no texts", None),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, content: str | bytes, says: str, member: str | None) -> None:
    error = refusal(write(tmp_path, content))
    assert says in error.detail
    if member is not None:
        assert error.member == member


@pytest.mark.parametrize(
    ("files", "says", "member"),
    [
        ({"train.csv": rows("12") + "3,x\n"}, 'the label "3"', "train.csv line 21"),
        ({"a/train.csv": rows("12"), "a/test.csv": b"1,\xff\n"}, "not UTF-8", "a/test.csv line 1"),
        ({"reviews.csv": rows("12"), "more.csv": rows("12")}, "give train.csv, train.tsv or", "reviews.csv"),
        ({"[Content_Types].xml": "<x/>", "xl/workbook.xml": "<x/>"}, "an Office document: save its sheet as CSV", None),
        ({"train.csv": rows("12"), "test.jsonl": rows("12")}, "is no JSON in its first line", "test.jsonl"),
        ({"train.txt": rows("12")}, "not a file of texts", "train.txt"),
        ({"train/1.png": b"\x89PNG"}, "is not a file of texts: give", "train/1.png"),
        ({"a/b/train.csv": rows("12")}, "perhaps in one folder", "a/b/train.csv"),
        ({"a/train.csv": rows("12"), "b/test.csv": rows("12")}, "2 folders", None),
        ({"train.csv": rows("12"), "val.csv": rows("12"), "valid.tsv": rows("12")}, "second file", "valid.tsv"),
        ({"val.csv": rows("12"), "test.csv": rows("12")}, 'the split "train" is empty', "train"),
        ({"train.csv": rows("12"), "test.csv": ""}, 'the split "test" is empty', "test"),
        ({"train.csv": rows("12"), "test.csv": "label,text\n"}, 'the split "test" is empty', "test"),
        ({"train.csv": rows("12"), "classes.txt": "one\n"}, "1 lines", "classes.txt"),
        ({"train.csv": rows("12"), "classes.txt": "same\nsame\n"}, "name each once", "classes.txt"),
        ({"train.csv": rows("12"), "classes.txt": b"\xff\n"}, "not UTF-8", "classes.txt"),
        ({"train.csv": rows("01"), "classes.txt": "no\nyes\n"}, "names the labels 1..2", "classes.txt"),
    ],
)
def test_bad_archives_are_refused_by_name(tmp_path: Path, files: Files, says: str, member: str | None) -> None:
    for kind in ("zip", "gz"):
        error = refusal(pack(tmp_path, files, kind))
        assert says in error.detail
        assert error.member == member


def test_an_order_that_lacks_a_label(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, rows("ab")), class_order=["a", "c"])
    assert (error.field, error.member) == ("dataset.class_order", "line 2")


def test_the_limits_hold(tmp_path: Path) -> None:
    limits = Limits(total_bytes=20 * LENGTH, ratio=20, ratio_from_bytes=30_000)
    error = refusal(write(tmp_path, rows("12", 11)), limits=limits)
    assert error.field == "dataset.length"
    assert len(texts(load(write(tmp_path, rows("12")), limits=limits))) == 20
    bomb = pack(tmp_path, {"train.csv": rows("12") + "1," + "x" * 100_000})
    assert "bomb" in refusal(bomb, limits=replace(limits, total_bytes=1 << 30)).detail


def test_kinds_that_the_teacher_does_not_take_are_named(tmp_path: Path) -> None:
    table = write(tmp_path, rows("12"))
    with pytest.raises(
        DatasetError, match="the file is CSV, TSV or JSON lines, but the teacher takes images: give npz"
    ):
        load_dataset(DatasetRequest(upload="upl_x"), None, table, Interface(3, 2))
    assert "of no known format" in refusal(write(tmp_path, b"\x00\x01\x02 binary")).detail
    assert "CSV, TSV or JSON lines" in refusal(write(tmp_path, b"")).detail
    assert "UTF-16: save it as UTF-8" in refusal(write(tmp_path, rows("12").encode("utf-16"))).detail
    assert "has NUL characters" in refusal(write(tmp_path, rows("12").replace("1", "1\0"))).detail
    asked = DatasetRequest(builtin="digits")
    with pytest.raises(DatasetError, match="the teacher takes texts"):
        load_dataset(asked, None, None, Interface(None, 10, Modality.TEXT, vocabulary_size=69))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbled_files_are_read_or_refused_but_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    plain = 'label,text\n1,"a ""b"", c"\n' + rows("12", 3)
    path = data.draw(
        st.sampled_from([lambda: write(tmp_path, plain), lambda: pack(tmp_path, {"a/train.csv": plain}, "gz")])
    )()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        dataset = load(path)
    except DatasetError:
        return
    assert dataset.classes
    assert all(arrays.x.shape[1] == LENGTH for arrays in dataset.splits.values())
