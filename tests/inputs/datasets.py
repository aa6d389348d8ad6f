"""Cases of data sets, and what becomes of one: inspected, checked at the POST, read by the job."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from lit_core.data import DatasetError, Interface, load_dataset
from lit_core.data.inspection import inspect_dataset
from lit_spec import Architecture, DatasetRequest, Modality, SpecError
from lit_spec.requests.contents import check_contents
from lit_spec.requests.training import Hyperparameters
from tests.inputs.cases import Case, Outcome, Result

IMAGES, TABLES, ARRAYS, PARQUET = "Images in an archive", "Tables of texts", "Arrays", "Parquet"
ON_ARRIVAL, AT_POST, NOTED = Outcome.REFUSED_ON_ARRIVAL, Outcome.REFUSED_AT_POST, Outcome.NOTED
HELD_OUT = "the data has no test split"
Files = Mapping[str, bytes]
Make = Callable[[Path], None]


def teacher_of(case: Case) -> Architecture:
    """Of images in colour with two classes, of texts with three."""
    texts = case.group == TABLES
    usual: dict[str, Any] = {
        "family": "vdcnn" if texts else "resnet_cifar",
        "modality": Modality.TEXT if texts else Modality.IMAGE,
        "depth": 9,
        "blocks": [1, 1, 1],
        "channels": None if texts else 3,
        "classes": 3 if texts else 2,
        "options": {"vocabulary_size": 69} if texts else {},
    }
    return Architecture.model_validate({**usual, **case.teacher})


def outcome_of(case: Case, folder: Path) -> Result:
    """Make the file and treat it as the service does."""
    path = folder / "data"
    case.make(path)
    teacher = teacher_of(case)
    request = DatasetRequest.model_validate({"upload": "upl_x", **case.request})
    try:
        found = inspect_dataset(path)
    except DatasetError as failure:
        return Result(ON_ARRIVAL, failure.detail)
    try:
        check_contents(request, Hyperparameters(alpha=0.0), teacher, found)
    except SpecError as failure:
        return Result(AT_POST, f"{failure.field}: {failure.message}")
    read = load_dataset(request, None, path, Interface.of(teacher))
    # A test split that is held out of the training split has a note of its own, which most cases have.
    notes = "; ".join(note for note in found.notes or read.notes if not note.startswith(HELD_OUT))
    return Result(NOTED if notes else Outcome.TAKEN, notes)


# --- files ------------------------------------------------------------------------------------------------


def picture(value: int, size: tuple[int, int] = (6, 4), fmt: str = "PNG", mode: str = "RGB") -> bytes:
    """`size` is (width, height)."""
    content = io.BytesIO()
    Image.new(mode, size, (12 * value % 256, 80 * (value // 20) % 256, 30) if mode == "RGB" else value).save(
        content, fmt
    )
    return content.getvalue()


def pictures(*prefixes: str, classes: Sequence[str] = ("cat", "dog"), suffix: str = ".png", **options: Any) -> Files:
    """20 images of each class under each prefix, all different."""
    return {
        f"{prefix}{label}/{number}{suffix}": picture(40 * place + 20 * which + number, **options)
        for place, prefix in enumerate(prefixes or ("",))
        for which, label in enumerate(classes)
        for number in range(20)
    }


def zipped(files: Files) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)

    return make


def tarred(files: Files, mode: str = "w:gz") -> Make:
    def make(path: Path) -> None:
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    return make


def written(content: str | bytes) -> Make:
    return lambda path: (path.write_bytes(content.encode() if isinstance(content, str) else content), None)[1]


def rows(
    labels: Sequence[Any] = ("0", "1", "2"), header: Sequence[str] = (), delimiter: str = ",", start: int = 0
) -> str:
    """60 rows of a label and a text."""
    content = io.StringIO()
    writer = csv.writer(content, delimiter=delimiter)
    if header:
        writer.writerow(header)
    for number in range(start, start + 60):
        row = {"label": labels[number % len(labels)], "text": f"text, number {number}", "lang": "en"}
        writer.writerow([row[name] for name in (header or ("label", "text"))])
    return content.getvalue()


def objects(**names: str) -> str:
    """JSON lines; `names` are the keys of label and text."""
    keys = {"label": "label", "text": "text", **names}
    return "".join(
        json.dumps({keys["label"]: f"class {number % 3}", keys["text"]: f"text {number}"}) + "\n"
        for number in range(60)
    )


def arrays(**changed: Any) -> dict[str, Any]:
    x = np.random.RandomState(0).randint(0, 256, (60, 3, 8, 8)).astype(np.uint8)
    found: dict[str, Any] = {"x": x, "y": np.arange(60) % 2, **changed}
    return {name: array for name, array in found.items() if array is not None}


def npz(**changed: Any) -> Make:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays(**changed))

    return make


def tensors(**changed: Any) -> Make:
    return lambda path: save_file(
        {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays(**changed).items()}, path
    )


def parquet(**columns: Sequence[Any]) -> Make:
    return lambda path: pq.write_table(pa.table(dict(columns)), path)


PICTURES = [picture(number) for number in range(60)]
TEXTS = [f"text {number}" for number in range(60)]
HALVES = [number % 2 for number in range(60)]

CASES: tuple[Case, ...] = (
    Case(IMAGES, "a folder for each class, in a zip", zipped(pictures())),
    Case(IMAGES, "train, val and test, in a tar.gz", tarred(pictures("train/", "val/", "test/"))),
    Case(IMAGES, "the same in one folder around everything", zipped(pictures("data/train/", "data/test/"))),
    Case(IMAGES, "training, dev and testing", zipped(pictures("training/", "dev/", "testing/"))),
    Case(IMAGES, "JPEG", zipped(pictures(suffix=".jpg", fmt="JPEG"))),
    Case(IMAGES, "grey images for a teacher of colours", zipped(pictures(mode="L"))),
    Case(
        IMAGES,
        "hidden files and files of operating systems",
        zipped({**pictures(), "__MACOSX/cat/._0.png": b"x", ".DS_Store": b"x", "cat/Thumbs.db": b"x"}),
    ),
    Case(
        IMAGES,
        "images without labels",
        zipped({f"{number}.png": content for number, content in enumerate(PICTURES)}),
    ),
    Case(
        IMAGES,
        "images of different sizes",
        zipped({**pictures(), "cat/large.png": picture(9, (30, 20))}),
        AT_POST,
        "dataset.size: is missing, but the images differ in size (4 to 20 high, 6 to 30 wide)",
    ),
    Case(
        IMAGES,
        "images of different sizes, with `dataset.size`",
        zipped({**pictures(), "cat/large.png": picture(9, (30, 20))}),
        request={"size": [8, 8]},
    ),
    Case(
        IMAGES,
        "three folders for a teacher of two classes",
        zipped(pictures(classes=("ant", "bee", "cat"))),
        AT_POST,
        "dataset.upload: has 3 classes (ant, bee, cat), but the teacher has 2 classes",
    ),
    Case(
        IMAGES,
        "a folder of samples without a class, with `dataset.unlabelled`",
        zipped(pictures(classes=("cat", "dog", "unsorted"))),
        request={"unlabelled": "unsorted"},
    ),
    Case(
        IMAGES,
        "names with special spaces, in `dataset.class_order`",
        zipped(pictures(classes=("New\u00a0York", "Oslo"))),
        request={"class_order": ["Oslo", "New\u00a0York"]},
    ),
    Case(
        IMAGES,
        "`dataset.class_order` without one of the folders",
        zipped(pictures()),
        AT_POST,
        "dataset.class_order: lacks dog",
        request={"class_order": ["cat", "bird"]},
    ),
    Case(
        IMAGES,
        "the same images in two splits",
        zipped({**pictures("train/"), **{f"test/{name}": content for name, content in pictures().items()}}),
        NOTED,
        '40 different samples of the split "test" are in the training split as well',
    ),
    Case(
        IMAGES,
        "class names that differ by case alone",
        zipped(pictures(classes=("Cat", "cat"))),
        NOTED,
        "classes whose names differ by case, spaces or Unicode form alone: Cat and cat",
    ),
    Case(
        IMAGES,
        "damaged images",
        zipped({**pictures(), "cat/7.png": picture(7)[:40], "dog/8.png": b"nothing"}),
        ON_ARRIVAL,
        "2 samples can't be read: cat/7.png",
    ),
    Case(
        IMAGES,
        "other files among the images",
        zipped({**pictures(), "labels.xml": b"<a/>"}),
        ON_ARRIVAL,
        "labels.xml is not an image",
    ),
    Case(
        IMAGES,
        "class folders in folders",
        zipped(pictures("animals/", "plants/")),
        NOTED,
        "class folders inside of other folders are named by their path: animals/cat",
        teacher={"classes": 4},
    ),
    Case(IMAGES, "`.jfif`", zipped(pictures(suffix=".jfif", fmt="JPEG"))),
    Case(
        IMAGES,
        "WebDataset: KEY.jpg with KEY.cls",
        tarred(
            {
                f"train/{number:03}.{kind}": content
                for number in range(40)
                for kind, content in (("cls", b"%d" % (number % 2)), ("png", picture(number)))
            },
            "w",
        ),
    ),
    Case(
        IMAGES,
        "COCO",
        zipped({"images/1.jpg": picture(1), "annotations/instances.json": b'{"images": [], "annotations": []}'}),
        ON_ARRIVAL,
        "COCO",
    ),
    Case(
        IMAGES,
        "YOLO",
        zipped({"images/train/1.jpg": picture(1), "labels/train/1.txt": b"0 0.5 0.5 1 1", "data.yaml": b"nc: 1"}),
        ON_ARRIVAL,
        "YOLO",
    ),
    Case(
        IMAGES,
        "Pascal VOC",
        zipped({"JPEGImages/1.jpg": picture(1), "Annotations/1.xml": b"<annotation/>"}),
        ON_ARRIVAL,
        "VOC",
    ),
    Case(IMAGES, "an empty archive", zipped({}), ON_ARRIVAL, "the archive has no images"),
    Case(IMAGES, "a zip that is cut off", written(b"PK\x03\x04 and no more"), ON_ARRIVAL, "damaged or cut off"),
    Case(
        IMAGES,
        "texts for a teacher of images",
        written(rows()),
        AT_POST,
        "dataset.upload: has texts, but the teacher takes images",
    ),
    Case(TABLES, "CSV, first the label and then the text", written(rows())),
    Case(TABLES, "semicolons instead of commas", written(rows(delimiter=";"))),
    Case(TABLES, "bars instead of commas", written(rows(delimiter="|"))),
    Case(TABLES, "TSV", written(rows(delimiter="\t"))),
    Case(TABLES, "a header that names label and text", written(rows(header=("text", "label")))),
    Case(
        TABLES,
        "other columns beside them",
        written(rows(header=("lang", "text", "label"))),
        NOTED,
        "columns of the data set that are not used: lang",
    ),
    Case(TABLES, "JSON lines", written(objects())),
    Case(TABLES, "whole floats as labels, as pandas writes them", written(rows(("0.0", "1.0", "2.0")))),
    Case(
        TABLES,
        "train.csv and test.csv in a zip",
        zipped({"train.csv": rows().encode(), "test.csv": rows(start=60).encode()}),
    ),
    Case(
        TABLES,
        "dev.csv as the validation split",
        zipped({"train.csv": rows().encode(), "dev.csv": rows(start=60).encode()}),
    ),
    Case(
        TABLES,
        "two labels for a teacher of three classes",
        written(rows(("neg", "pos"))),
        AT_POST,
        "dataset.upload: has 2 classes (neg, pos), but the teacher has 3 classes",
    ),
    Case(
        TABLES,
        "the same, with all classes in `dataset.class_order`",
        written(rows(("neg", "pos"))),
        request={"class_order": ["neg", "neutral", "pos"]},
    ),
    Case(
        TABLES,
        "a label that is written in two ways",
        written(rows(("Neg", "neg", "pos"))),
        NOTED,
        "classes whose names differ by case, spaces or Unicode form alone: Neg and neg",
    ),
    Case(
        TABLES,
        "columns of other names, with `dataset.columns`",
        written(rows().replace("0,", "stars,opinion\n0,", 1)),
        request={"columns": {"text": "opinion", "label": "stars"}},
    ),
    Case(
        TABLES,
        "-1 among the labels",
        written(rows(("-1", "0", "1", "2"))),
        AT_POST,
        "dataset.unlabelled: is missing: line 5 is -1, and other samples have other labels",
    ),
    Case(
        TABLES,
        "-1 among the labels, with `dataset.unlabelled: -1`",
        written(rows(("-1", "0", "1", "2"))),
        request={"unlabelled": -1},
    ),
    Case(
        TABLES,
        "no header, and the text before the label",
        written("".join(f"text {number},{number % 3}\n" for number in range(60))),
        AT_POST,
        "dataset.upload: has 59 classes (text 1",
    ),
    Case(
        TABLES,
        "a text of more than 131,072 characters",
        written(rows() + f'0,"{"x" * 140_000}"\n'),
        ON_ARRIVAL,
        "line 61 has a text of more than 131,072 characters",
    ),
    Case(TABLES, "UTF-16", written(rows().encode("utf-16")), ON_ARRIVAL, "UTF-16: save it as UTF-8"),
    Case(TABLES, "Latin-1", written("0,caf\xe9\n".encode("latin-1") * 60), ON_ARRIVAL, "line 1 is not UTF-8"),
    Case(TABLES, "quotes that never end", written(rows() + '0,"text'), ON_ARRIVAL, "line 61 can't be read"),
    Case(TABLES, "rows of different length", written(rows() + "0,a,b\n"), ON_ARRIVAL, "line 61 has 3 columns"),
    Case(TABLES, "one column", written("text\n" * 60), ON_ARRIVAL, "line 1 has one column"),
    Case(TABLES, "an HTML page", written("<!DOCTYPE html>\n<p>404"), ON_ARRIVAL, "an HTML or XML page"),
    Case(
        TABLES, "a pointer of Git LFS", written("version https://git-lfs.github.com/spec/v1\n"), ON_ARRIVAL, "Git LFS"
    ),
    Case(TABLES, "YAML", written("- text: a\n  label: 0\n"), ON_ARRIVAL, "is YAML"),
    Case(TABLES, "one JSON document", written('[{"text": "a"}]'), ON_ARRIVAL, "one JSON document"),
    Case(TABLES, "fastText", written("__label__0 a text\n" * 60), ON_ARRIVAL, "in fastText's format"),
    Case(
        TABLES, "an Office document", zipped({"[Content_Types].xml": b"<Types/>"}), ON_ARRIVAL, "save its sheet as CSV"
    ),
    Case(
        TABLES,
        "images for a teacher of texts",
        zipped(pictures()),
        AT_POST,
        "dataset.upload: has images, but the teacher takes texts",
    ),
    Case(ARRAYS, "x (N, C, H, W) and y (N,) in an npz", npz()),
    Case(
        ARRAYS,
        "x (N, H, W, C)",
        npz(x=np.zeros((60, 8, 8, 3), np.uint8) + np.arange(60, dtype=np.uint8)[:, None, None, None]),
    ),
    Case(ARRAYS, "safetensors", tensors()),
    Case(ARRAYS, "x alone, without labels", npz(y=None)),
    Case(ARRAYS, "the split of each sample", npz(split=np.array(["train"] * 40 + ["val"] * 10 + ["test"] * 10))),
    Case(
        ARRAYS,
        "labels from 1 to 2 for a teacher of two classes",
        npz(y=np.arange(60) % 2 + 1),
        AT_POST,
        "dataset.upload: has labels up to 2, but the teacher has 2 classes: labels must be 0 to 1",
    ),
    Case(
        ARRAYS,
        "one channel for a teacher of three",
        npz(x=np.zeros((60, 8, 8), np.uint8)),
        AT_POST,
        "dataset.upload: has 1-channel images, but the teacher takes 3 channels",
    ),
    Case(ARRAYS, "one class only", npz(y=np.ones(60, np.int64)), NOTED, 'all labels of the split "train" are 1'),
    Case(
        ARRAYS,
        "too few samples to hold out a validation and a test split",
        npz(x=np.zeros((4, 3, 8, 8), np.uint8), y=np.zeros(4, np.int64)),
        AT_POST,
        'dataset.test_fraction: the split "test" is empty',
    ),
    Case(
        ARRAYS,
        "no array x",
        lambda path: np.savez(path.open("wb"), images=np.zeros(3)),
        ON_ARRIVAL,
        "the array x is missing",
    ),
    Case(ARRAYS, "pickled objects", npz(y=np.array([{}] * 60, dtype=object)), ON_ARRIVAL, "needs unpickling"),
    Case(
        ARRAYS,
        "values that are not finite",
        npz(x=np.full((60, 3, 8, 8), np.nan, np.float32)),
        ON_ARRIVAL,
        "not finite",
    ),
    Case(ARRAYS, "integers beyond 0 to 255", npz(x=np.full((60, 3, 8, 8), 300)), ON_ARRIVAL, "integers must be 0..255"),
    Case(
        ARRAYS,
        "a label that means none, with `dataset.unlabelled: 255`",
        npz(y=np.where(np.arange(60) < 9, 255, np.arange(60) % 2)),
        NOTED,
        "no sample has the label 2",
        request={"unlabelled": 255},
    ),
    Case(
        ARRAYS,
        "-100 among the labels",
        npz(y=np.where(np.arange(60) < 9, -100, np.arange(60) % 2)),
        AT_POST,
        "dataset.unlabelled: is missing: y[0] is -100",
    ),
    Case(
        ARRAYS,
        "-100 among the labels, with `dataset.unlabelled: -100`",
        npz(y=np.where(np.arange(60) < 9, -100, np.arange(60) % 2)),
        request={"unlabelled": -100},
    ),
    Case(
        ARRAYS,
        "one-hot labels for a classifier",
        npz(y=np.eye(2, dtype=np.int64)[np.arange(60) % 2]),
        AT_POST,
        "dataset.upload: has several labels a sample",
    ),
    Case(
        ARRAYS,
        "the same for a generator of two domains",
        npz(y=np.eye(2, dtype=np.int64)[np.arange(60) % 2]),
        teacher={"family": "stargan_generator", "task": "translation"},
    ),
    Case(
        ARRAYS,
        "flattened images",
        npz(x=np.zeros((60, 192), np.float32)),
        ON_ARRIVAL,
        "it must be (N, H, W), (N, C, H, W) or (N, H, W, C)",
    ),
    Case(PARQUET, "encoded images and integers", parquet(image=PICTURES, label=HALVES)),
    Case(PARQUET, "names of classes", parquet(image=PICTURES, label=["ab"[half] for half in HALVES])),
    Case(
        PARQUET,
        "a label for each sample that the teacher doesn't have",
        parquet(image=PICTURES, label=[7] * 60),
        AT_POST,
        "dataset.upload: has labels up to 7",
    ),
    Case(
        PARQUET,
        "two columns that may be the image",
        parquet(front=PICTURES, back=PICTURES, label=HALVES),
        AT_POST,
        "dataset.columns: is missing",
    ),
    Case(
        PARQUET,
        "the same, with `dataset.columns`",
        parquet(front=PICTURES, back=PICTURES, label=HALVES),
        NOTED,
        "not used",
        request={"columns": {"image": "front"}},
    ),
    Case(PARQUET, "no rows", parquet(image=[], label=[]), AT_POST, "dataset.upload"),
)
