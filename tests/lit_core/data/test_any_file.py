"""Whatever people upload is read, or refused with words that name what is wrong."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lit_core.data import Dataset, DatasetError, Limits, load_dataset
from lit_core.data.inspection import inspect_dataset
from lit_spec import DatasetRequest, Modality
from lit_spec.dataset_inspection import LabelKind
from tests.lit_core.data.broken_files import IMAGES, TEXTS, picture, tarred, zipped

LIMITS = Limits(total_bytes=64 << 20)
SAMPLES = 24
PICTURES = [picture("PNG", 3), picture("JPEG", 5), picture("PNG", 9)]
FOLDERS = ("train", "Val", "dev", "test", "cats", "photos", "-1", "labels", "Annotations", "@eaDir", "__MACOSX", ".git")
NAMES = ("1.png", "a.b.png", "README", "ü.jpg", "x\ny.png", "1.cls", "a.cls", "a.json", "_annotations.coco.json")
OTHER_NAMES = ("1.txt", "classes.txt", "1.xml", "data.yaml", "train.csv", "train.parquet", "x.npy", "Icon\r", "no.jfif")
CONTENTS = (b"", b"0", b"-1", b"cat", b"0 0.5 0.5 0.1 0.1\n", b'{"annotations": []}', b"<annotation/>", b"\xff\0")
COLUMNS = ("label", "text", "image", "id", "split", "stars", "review", "category", "", "Text ", "fine_label", "é")
LABELS = ("-1", "1.0", "0.5", "a", "", " b ", "A", "nan", "3", "1e400", '"')
WORDS = ("a,b", "a;b", 'say "hi"', "", "ü", "\t", "line\nbreak", "\0")
DTYPES = ("int8", "int64", "uint64", "float16", "float32", "float64", "bool", "complex64", "U3", "S2")


def rarely(rng: Random) -> bool:
    return rng.random() < 0.1


def trees(rng: Random) -> bytes:
    """Archives of images in folders, or with labels of their own, and what lies beside them."""
    around = rng.choice(["", "", "photos/", "photos/data/", "train/"])
    splits = rng.choice([[""], ["train/", "test/"], ["training/", "Val/", "testing/"]])
    classes = rng.choice([["cats", "dogs"], ["cats", "dogs"], ["animals/cat", "car"], ["1", "10"], ["a", "-1"]])
    layout = rng.choice(["folders", "folders", "loose", "webdataset"])
    files = {}
    for number in range(SAMPLES):
        folder = f"{around}{splits[number // 2 % len(splits)]}"
        within = f"{classes[number % 2]}/" if layout == "folders" else ""
        files[f"{folder}{within}{number}.{rng.choice(['png', 'jpg', 'JFIF'])}"] = rng.choice(PICTURES)
        if layout == "webdataset":
            files[f"{folder}{number}.cls"] = b"%d" % (number % 2)
    for _ in range(rng.choice([0, 0, 1, 3])):
        odd = "/".join([*rng.choices(FOLDERS, k=rng.randrange(4)), rng.choice(NAMES + OTHER_NAMES)])
        files[odd] = rng.choice([*PICTURES, *CONTENTS])
    for _ in range(rng.choice([0, 0, 0, 1])):
        files[rng.choice([*files])] = rng.choice(CONTENTS)
    return rng.choice([zipped, tarred])(files)


def tables(rng: Random) -> bytes:
    """CSV, TSV or JSON lines, alone or as splits, with or without headers."""
    names = rng.sample(COLUMNS, rng.randrange(1, 5)) if rng.random() < 0.4 else ["label", "text"]
    ordinary = rng.choice([("0", "1"), ("neg", "pos"), ("1.0", "2.0"), ("-1", "1")])
    lines = [
        [
            rng.choice(LABELS if rarely(rng) and rarely(rng) else ordinary),
            *(rng.choice(WORDS) if rarely(rng) else f"text {number}" for _ in names[1:]),
        ]
        for number in range(SAMPLES)
    ]
    if rarely(rng):
        lines[rng.randrange(SAMPLES)].append("one more")
    if rng.random() < 0.3:
        values: dict[str, Any] = {"0": 0, "1.0": 1.0, "-1": -1, "0.5": 0.5, "": None, "a": [], "A": True}
        objects = [dict(zip(names, [values.get(line[0], line[0]), *line[1:]], strict=False)) for line in lines]
        content = "".join(json.dumps(one) + "\n" for one in objects)
        suffix = "jsonl"
    else:
        separator, suffix = rng.choice([(",", "csv"), (";", "csv"), ("\t", "tsv"), ("|", "csv")])
        quote = rng.choice(['"', "", ""])
        rows = [names, *lines] if rng.random() < 0.7 else lines
        content = "".join(
            separator.join(quote + cell.replace('"', quote * 2) + quote for cell in row) + "\n" for row in rows
        )
    encoding = rng.choice(["utf-16", "latin-1"]) if rarely(rng) else rng.choice(["utf-8", "utf-8-sig"])
    encoded = content.encode(encoding, "replace")
    splits = [f"train.{suffix}", f"test.{suffix}"]
    members = [splits, [f"a/{splits[0]}"], [f"x.{suffix}"], [splits[0], "classes.txt"]]
    return encoded if rng.random() < 0.6 else zipped(dict.fromkeys(rng.choice(members), encoded))


def arrays(rng: Random) -> bytes:
    """npz files with odd shapes, types and labels."""
    made: dict[str, Any] = {
        "x": np.arange(SAMPLES * 48, dtype=np.int64).reshape(SAMPLES, 3, 4, 4) % 251,
        "y": np.arange(SAMPLES) % rng.choice([2, 2, 2, 3]),
        "split": np.arange(SAMPLES) % 3,
    }
    if rng.random() < 0.5:
        made["y"] = made["y"] - rng.choice([0, 1, 2])
    for name in [*made]:
        if rarely(rng):
            made[name] = made[name].astype(rng.choice(DTYPES))
        if rarely(rng):
            made[name] = made[name].reshape(rng.choice([(SAMPLES, -1), (-1,), (1, -1), (-1, 2, 3, 4)]))
        if rarely(rng):
            made[name] = made[name][: rng.choice([0, 1, 12])]
        if rarely(rng):
            made[rng.choice(["z", "x_test", name])] = made.pop(name)
        elif rarely(rng):
            made[name] = made[name].astype(np.float64)
            made[name].reshape(-1)[:1] = rng.choice([np.nan, np.inf, 1e300, 0.5])
    if "split" in made and rng.random() < 0.5:
        del made["split"]
    file = io.BytesIO()
    np.savez(file, **made)
    return file.getvalue()


def parquets(rng: Random) -> bytes:
    """Parquet files whose columns have any names and types."""
    content = PICTURES if rng.random() < 0.5 else ["some text", "another text"]
    names = rng.sample(COLUMNS, 2) if rng.random() < 0.5 else ["label", "image" if content is PICTURES else "text"]
    labels = rng.choice([[0, 1], [0.0, 1.0], ["neg", "pos"], ["-1", "1"], [-1, 1], [None, 1], [0, 0.5], [np.nan, 1.0]])
    odd = (
        [True],
        [[1]],
        [2**63 - 1],
        ["train", "test"],
        ["train", "elsewhere"],
        [b"no image"],
        [None],
        [{"bytes": b""}],
    )
    columns = {names[0]: labels, names[1]: content}
    for name in rng.sample(COLUMNS, rng.choice([0, 0, 1, 2])):
        columns[name] = rng.choice(odd)
    made = {
        name: pa.array([values[row % len(values)] for row in range(SAMPLES)], from_pandas=False)
        for name, values in columns.items()
    }
    file = io.BytesIO()
    pq.write_table(pa.table(made), file)
    members = rng.choice([["data/train-0.parquet", "data/test.parquet"], ["x.parquet"], ["train.parquet", "x.parquet"]])
    return file.getvalue() if rng.random() < 0.6 else zipped(dict.fromkeys(members, file.getvalue()))


def damaged(rng: Random, content: bytes) -> bytes:
    """A few bytes changed, or the end cut off; most files stay whole."""
    data = bytearray(content)
    if not data or rng.random() < 0.8:
        return content
    for _ in range(rng.randrange(4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data)) if rarely(rng) else len(data)])


def requests(rng: Random, *, texts: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"length": 12} if texts else {"size": [4, 4]}
    inputs = "text" if texts or rarely(rng) else "image"
    if rng.random() < 0.15:
        made["columns"] = {rng.choice([inputs, "label"]): rng.choice(COLUMNS) for _ in range(2)}
    if rng.random() < 0.3:
        made["unlabelled"] = rng.choice([-1, "-1", 1, "a", "dogs"])
    if rng.random() < 0.1:
        made["class_order"] = rng.choice([["neg", "pos"], ["1", "-1"], ["dogs", "cats"], ["0", "1"]])
    return made


def is_usable(path: Path) -> bool:
    """Whether an inspection finds that some request could use the file."""
    try:
        found = inspect_dataset(path, LIMITS)
    except DatasetError:
        return False
    assert (found.label_kind == LabelKind.UNKNOWN) == (found.needs is not None)
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [trees, tables, arrays, parquets], ids=lambda kind: kind.__name__)
def test_any_file_is_read_or_refused_by_name(tmp_path: Path, kind: Callable[[Random], bytes]) -> None:
    read: list[Dataset] = []
    refusals: list[DatasetError] = []

    @settings(max_examples=125, deadline=None, derandomize=True, database=None)
    @given(rng=st.randoms(use_true_random=True))
    def check(rng: Random) -> None:
        content = damaged(rng, kind(rng))
        texts = kind is tables or (kind is parquets and b"some text" in content) or rarely(rng)
        interface = TEXTS if texts else IMAGES
        try:
            asked = DatasetRequest(upload="upl_x", **requests(rng, texts=texts))
        except ValidationError:
            return  # it contradicts itself
        (tmp_path / "dataset").write_bytes(content)
        usable = is_usable(tmp_path / "dataset")
        try:
            dataset = load_dataset(asked, None, tmp_path / "dataset", interface, limits=LIMITS)
        except DatasetError as failure:
            refusals.append(failure)
            return
        read.append(dataset)
        assert usable, "an inspection refuses what a job reads"
        assert dataset.preprocessing.kind == interface.modality == (Modality.TEXT if texts else Modality.IMAGE)
        for part in dataset.splits.values():
            assert len(part.x) == len(part.y) > 0
            assert ((part.y >= -1) & (part.y < interface.classes)).all()

    check()
    assert len(read) > 5
    assert len(refusals) > 5
    for refusal in refusals:
        named = refusal.field or refusal.member or re.search("the (archive|zip|Parquet|file)", refusal.detail)
        assert named, refusal.detail
        assert re.search("[:;,] |at most", refusal.detail), refusal.detail  # what is wrong, and then what to do
