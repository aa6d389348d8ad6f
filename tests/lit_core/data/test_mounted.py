"""Data sets by name from a mounted folder: small files, in each one's own format, that torchvision's readers read.

The readers compare their files with the published MD5s, which they have as class attributes; a test puts those of its
own files there.
"""

from __future__ import annotations

import hashlib
import http.server
import pickle
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, SVHN, CelebA

from lit_core.data import Dataset, DatasetError, Interface, load_dataset
from lit_core.data.readers.mounted import MOUNTED
from lit_spec import DatasetRequest, Split, Task

RANDOM = np.random.default_rng(3)
GENERATOR = Interface(3, 2, task=Task.TRANSLATION)
CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ATTRIBUTES = ["Smiling", "Blond_Hair", "Young"]


def load(name: str, folder: Path | None, interface: Interface, *, download: bool = False, **request: Any) -> Dataset:
    asked = DatasetRequest.model_validate({"mounted": name, **request})
    return load_dataset(asked, None, folder, interface, download=download)


def refusal(name: str, folder: Path | None, interface: Interface, **options: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load(name, folder, interface, **options)
    return caught.value


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


# --- CIFAR -----------------------------------------------------------------------------------------------


def write_batch(path: Path, labels: Sequence[int], key: str) -> np.ndarray[Any, Any]:
    """Rows of 3,072 values, channel by channel, as CIFAR's authors pickled them."""
    data = RANDOM.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"data": data, key: list(labels)}, protocol=2))
    return data.reshape(-1, 3, 32, 32)


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """50 training images in five files, number n of class n % 10; and 10 for the test. Returns both parts."""
    base = folder / "cifar-10-batches-py"
    labels = np.arange(50) % 10
    train = [
        write_batch(base / f"data_batch_{part + 1}", labels[10 * part : 10 * part + 10].tolist(), "labels")
        for part in range(5)
    ]
    test = write_batch(base / "test_batch", range(10), "labels")
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": CIFAR10_NAMES}, protocol=2))
    names = [f"data_batch_{part}" for part in range(1, 6)]
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(base / name)] for name in names])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(base / "test_batch")]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(base / "batches.meta")})
    return np.concatenate(train), test


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = write_cifar10(tmp_path, monkeypatch)
    dataset = load("cifar10", tmp_path, Interface(3, 10), validation_fraction=0.2)
    assert {split: len(arrays.y) for split, arrays in dataset.splits.items()} == {"train": 40, "val": 10, "test": 10}
    assert torch.equal(dataset.splits[Split.TEST].x, torch.from_numpy(test))
    assert dataset.splits[Split.TEST].y.tolist() == list(range(10))
    # Validation is held out of the training part, a tenth of it from each class.
    assert dataset.splits[Split.VALIDATION].y.sort().values.tolist() == list(range(10))
    by_image = {image.tobytes(): row % 10 for row, image in enumerate(train)}
    for split in (Split.TRAIN, Split.VALIDATION):
        arrays = dataset.splits[split]
        assert [by_image[image.numpy().tobytes()] for image in arrays.x] == arrays.y.tolist()
    assert dataset.classes == CIFAR10_NAMES
    assert dataset.preprocessing.scale == 255


def test_cifar10_in_another_class_order_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    order = CIFAR10_NAMES[::-1]
    dataset = load("cifar10", tmp_path, Interface(3, 10), class_order=order, size=[8, 8], train_samples=20)
    assert dataset.splits[Split.TEST].y.tolist() == list(range(9, -1, -1))
    assert dataset.splits[Split.TRAIN].x.shape == (20, 3, 8, 8)
    assert dataset.preprocessing.class_order == order
    error = refusal("cifar10", tmp_path, Interface(3, 10), class_order=[*order[:-1], "zeppelin"])
    assert error.field == "dataset.class_order"
    assert "airplane" in error.detail


def test_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "cifar-100-python"
    write_batch(base / "train", list(range(100)) * 2, "fine_labels")
    test = write_batch(base / "test", range(99, -1, -1), "fine_labels")
    names = [f"class {number}" for number in range(100)]
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5(base / "train")]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(base / "test")]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(base / "meta")})
    dataset = load("cifar100", tmp_path, Interface(3, 100), validation_fraction=0.5)
    assert torch.equal(dataset.splits[Split.TEST].x, torch.from_numpy(test))
    assert dataset.splits[Split.TEST].y.tolist() == list(range(99, -1, -1))
    assert dataset.classes == names


# --- SVHN ------------------------------------------------------------------------------------------------


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "svhn").mkdir()
    parts = {}
    listed = {}
    for split, count in (("train", 40), ("test", 10)):
        x = RANDOM.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        y = (np.arange(count) % 10 + 1).astype(np.uint8)  # MATLAB's: 10 stands for the digit 0
        path = tmp_path / "svhn" / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": x, "y": y[:, None]})
        parts[split] = x.transpose(3, 2, 0, 1)
        listed[split] = ["http://127.0.0.1:1/", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", listed)
    dataset = load("svhn", tmp_path, Interface(3, 10), validation_fraction=0.25)
    assert torch.equal(dataset.splits[Split.TEST].x, torch.from_numpy(parts["test"].copy()))
    assert dataset.splits[Split.TEST].y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert len(dataset.splits[Split.TRAIN].y) == 30
    assert dataset.classes == [str(digit) for digit in range(10)]


# --- CelebA ----------------------------------------------------------------------------------------------


def write_celeba(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 faces of 10x8 whose red value is their number: 20 for training, 4 for validation, 6 for the test.

    A face smiles where its number is odd, is blond where it can be divided by three, and young if below 10.
    """
    base = folder / "celeba"
    (base / "img_align_celeba").mkdir(parents=True)
    names = [f"{number + 1:06}.jpg" for number in range(30)]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 10), (8 * number, 0, 0)).save(base / "img_align_celeba" / name, quality=100)
    smiling, blond, young = ([n % 2 for n in range(30)], [n % 3 == 0 for n in range(30)], [n < 10 for n in range(30)])
    rows = [
        f"{name}  {'  '.join('1' if value else '-1' for value in values)}"
        for name, *values in zip(names, smiling, blond, young, strict=True)
    ]
    texts = {
        "list_attr_celeba.txt": ["30", " ".join(ATTRIBUTES) + " ", *rows],
        "list_eval_partition.txt": [f"{name} {(n >= 20) + (n >= 24)}" for n, name in enumerate(names)],
        "identity_CelebA.txt": [f"{name} {n}" for n, name in enumerate(names)],
        "list_bbox_celeba.txt": ["30", "image_id x_1 y_1 width height", *(f"{name} 0 0 8 10" for name in names)],
        "list_landmarks_align_celeba.txt": ["30", "lefteye_x lefteye_y", *(f"{name} 1 2" for name in names)],
    }
    for name, lines in texts.items():
        (base / name).write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(CelebA, "file_list", [("", md5(base / name), name) for name in texts])


def numbers(x: torch.Tensor) -> list[int]:
    return [round(value / 8) for value in x[:, 0].float().mean(dim=(1, 2)).tolist()]


def test_celeba_for_a_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_celeba(tmp_path, monkeypatch)
    dataset = load("celeba", tmp_path, GENERATOR, attributes=["Young", "Smiling"], crop=8, size=[4, 4])
    for split, expected in ((Split.TRAIN, range(20)), (Split.VALIDATION, range(20, 24)), (Split.TEST, range(24, 30))):
        arrays = dataset.splits[split]
        assert numbers(arrays.x) == list(expected)
        assert arrays.y.tolist() == [[float(n < 10), float(n % 2)] for n in expected]
        assert arrays.x.shape[1:] == (3, 4, 4)
    assert dataset.classes == ["Young", "Smiling"]


def test_some_faces_are_taken_by_their_attributes_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_celeba(tmp_path, monkeypatch)
    # The others need not even be there.
    whole = load("celeba", tmp_path, GENERATOR, attributes=["Young", "Smiling"])
    dataset = load("celeba", tmp_path, GENERATOR, attributes=["Young", "Smiling"], train_samples=8)
    chosen = numbers(dataset.splits[Split.TRAIN].x)
    for number in set(range(20)) - set(chosen):
        (tmp_path / "celeba" / "img_align_celeba" / f"{number + 1:06}.jpg").unlink()
    again = load("celeba", tmp_path, GENERATOR, attributes=["Young", "Smiling"], train_samples=8)
    assert torch.equal(again.splits[Split.TRAIN].x, dataset.splits[Split.TRAIN].x)
    assert dataset.splits[Split.TRAIN].y.mean(dim=0).tolist() == whole.splits[Split.TRAIN].y.mean(dim=0).tolist()
    assert torch.equal(dataset.splits[Split.TEST].x, whole.splits[Split.TEST].x)
    error = refusal("celeba", tmp_path, GENERATOR, attributes=["Young", "Smiling"])
    assert error.field == "dataset.mounted"
    assert ".jpg" in error.detail


@pytest.mark.parametrize(
    ("interface", "request_", "field", "words"),
    [
        (GENERATOR, {}, "dataset.attributes", ["2 domains", "Smiling, Blond_Hair, Young"]),
        (GENERATOR, {"attributes": ["Young"]}, "dataset.attributes", ["2 domains"]),
        (GENERATOR, {"attributes": ["Young", "Old"]}, "dataset.attributes", ["no attribute Old", "Blond_Hair"]),
        (GENERATOR, {"class_order": ["Young", "Smiling"]}, "dataset.class_order", ["attributes"]),
        (Interface(3, 2), {"attributes": ["Young", "Smiling"]}, "dataset.mounted", ["classifier", "folders of images"]),
    ],
)
def test_what_celeba_is_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interface: Interface,
    request_: dict[str, Any],
    field: str,
    words: list[str],
) -> None:
    write_celeba(tmp_path, monkeypatch)
    error = refusal("celeba", tmp_path, interface, **request_)
    assert error.field == field
    for word in words:
        assert word in error.detail


# --- what is not there -----------------------------------------------------------------------------------


def test_every_name_of_the_specification_can_be_read() -> None:
    names = get_args(get_args(DatasetRequest.model_fields["mounted"].annotation)[0])
    assert set(MOUNTED) == set(names)


@pytest.mark.parametrize("name", MOUNTED)
def test_a_missing_folder_tells_the_operator_what_to_do(tmp_path: Path, name: str) -> None:
    interface = GENERATOR if name == "celeba" else Interface(3, 10)
    without = refusal(name, None, interface)
    assert without.field == "dataset.mounted"
    assert "LIT_DATASETS_DIR" in without.detail
    empty = refusal(name, tmp_path, interface)
    assert empty.field == "dataset.mounted"
    for word in (str(tmp_path), MOUNTED[name].files, "LIT_DATASETS_DIR", "LIT_DATASETS_DOWNLOAD"):
        assert word in empty.detail
    assert "download=True" not in empty.detail
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_the_published_one_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Evil()))
    assert "damaged" in refusal("cifar10", tmp_path, Interface(3, 10)).detail
    assert not marker.exists()


@pytest.mark.parametrize(("channels", "classes", "words"), [(1, 10, "3 channels"), (3, 7, "10 classes")])
def test_another_teacher_s_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, classes: int, words: str
) -> None:
    write_cifar10(tmp_path, monkeypatch)
    error = refusal("cifar10", tmp_path, Interface(channels, classes))
    assert error.field == "dataset.mounted"
    assert words in error.detail


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """An HTTP server on loopback; its address."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_downloads_only_where_the_operator_allows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, test = write_cifar10(tmp_path / "published", monkeypatch)
    archive = tmp_path / "published" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "published" / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tmp_path / "published") as address:
        monkeypatch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
        folder = tmp_path / "new" / "folder"
        assert "LIT_DATASETS_DOWNLOAD" in refusal("cifar10", folder, Interface(3, 10)).detail
        assert not folder.exists()
        dataset = load("cifar10", folder, Interface(3, 10), download=True)
    assert torch.equal(dataset.splits[Split.TEST].x, torch.from_numpy(test))
    # Once it is there, no server is needed.
    again = load("cifar10", folder, Interface(3, 10), download=True)
    assert torch.equal(again.splits[Split.TRAIN].x, dataset.splits[Split.TRAIN].x)


def test_a_download_that_fails_is_a_bad_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/cifar-10-python.tar.gz")
    error = refusal("cifar10", tmp_path, Interface(3, 10), download=True)
    assert error.field == "dataset.mounted"
    assert "cifar-10-batches-py" in error.detail
