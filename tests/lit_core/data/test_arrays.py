"""Data sets of arrays: what is read, and what is refused with which words."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lit_core.data import Dataset, DatasetError, Interface, Limits, load_dataset
from lit_spec import Augmentation, DatasetRequest, Split

RANDOM = np.random.default_rng(5)


def load(
    path: Path | None, *, channels: int = 1, classes: int = 3, limits: Limits | None = None, **request: Any
) -> Dataset:
    asked = DatasetRequest(upload="upl_x", **request)
    return load_dataset(asked, None, path, Interface(channels, classes), limits=limits or Limits())


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def labels(count: int, classes: int = 3) -> np.ndarray:
    return np.arange(count) % classes


def npz(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "dataset"
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def refusal(path: Path, **options: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load(path, **options)
    return caught.value


def gather(dataset: Dataset) -> torch.Tensor:
    return torch.cat([dataset.splits[split].x for split in Split])


def test_npz_with_text_splits(tmp_path: Path) -> None:
    x, y = pixels(60, 6, 5), labels(60)
    split = RANDOM.permutation(np.array(["train"] * 40 + ["validation"] * 11 + ["Test"] * 9))
    dataset = load(npz(tmp_path, x=x, y=y, split=split))
    for name, text in ((Split.TRAIN, "train"), (Split.VALIDATION, "validation"), (Split.TEST, "Test")):
        arrays = dataset.splits[name]
        assert torch.equal(arrays.x, torch.from_numpy(x[split == text][:, None]))
        assert arrays.y.tolist() == y[split == text].tolist()
        assert arrays.y.dtype == torch.int64
    assert dataset.classes == ["0", "1", "2"]
    assert dataset.preprocessing.scale == 255
    assert dataset.augmentation == Augmentation(shift=0, flip=False)


@pytest.mark.parametrize("compressed", [False, True])
def test_compressed_and_fortran_order(tmp_path: Path, compressed: bool) -> None:
    x = np.asfortranarray(RANDOM.standard_normal((30, 3, 8, 9)).astype(">f8"))
    path = tmp_path / "dataset"
    with path.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, x=x, y=labels(30), split=np.repeat([0, 1, 2], 10))
    dataset = load(path, channels=3)
    assert torch.equal(gather(dataset), torch.from_numpy(x.astype("<f4")))
    assert dataset.preprocessing.scale == 1
    assert dataset.augmentation.shift == 1


def test_safetensors(tmp_path: Path) -> None:
    x = torch.rand(30, 3, 4, 4)
    split = torch.tensor([2, 0, 1] * 10, dtype=torch.uint8)
    save_file({"x": x, "y": torch.arange(30, dtype=torch.int32) % 3, "split": split}, tmp_path / "dataset")
    dataset = load(tmp_path / "dataset", channels=3, class_order=["ant", "bee", "cat"])
    assert torch.equal(dataset.splits[Split.TEST].x, x[0::3])
    assert torch.equal(dataset.splits[Split.TRAIN].x, x[1::3])
    assert dataset.classes == dataset.preprocessing.class_order == ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    ("shape", "channels", "order"),
    [
        ((30, 8, 7), 1, None),
        ((30, 1, 8, 7), 1, None),
        ((30, 8, 7, 1), 1, (0, 3, 1, 2)),
        ((30, 3, 8, 7), 3, None),
        ((30, 8, 7, 3), 3, (0, 3, 1, 2)),
        ((30, 3, 8, 3), 3, None),  # both places fit: channels first
        ((30, 8, 7, 5), 5, (0, 3, 1, 2)),
    ],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], channels: int, order: tuple[int, ...] | None) -> None:
    x = pixels(*shape)
    dataset = load(npz(tmp_path, x=x, y=labels(30), split=np.repeat([0, 1, 2], 10)), channels=channels)
    expected = x.transpose(order) if order else x.reshape(30, channels, *x.shape[-2:])
    assert torch.equal(gather(dataset), torch.from_numpy(expected.copy()))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integers_within_a_byte_are_pixels(tmp_path: Path, dtype: str) -> None:
    x = RANDOM.integers(0, 100, (30, 4, 4)).astype(dtype)
    dataset = load(npz(tmp_path, x=x, y=labels(30).astype(dtype), split=np.repeat([0, 1, 2], 10)))
    assert gather(dataset).dtype == torch.uint8
    assert torch.equal(gather(dataset)[:, 0], torch.from_numpy(x.astype(np.uint8)))


X = pixels(30, 4, 4)
Y = labels(30)
FLOATS = X.astype(np.float32)
NOT_FINITE = FLOATS.copy()
NOT_FINITE[17, 2, 2] = np.nan
TOO_LARGE = FLOATS.astype(np.float64)
TOO_LARGE[4] = 1e300


@pytest.mark.parametrize(
    ("arrays", "member", "words"),
    [
        ({"x": X, "y": np.where(np.arange(30) == 7, 3, Y)}, "y[7]", ["y[7] is 3", "3 classes", "0..2"]),
        ({"x": X, "y": np.where(np.arange(30) == 9, -2, Y)}, "y[9]", ["y[9] is -2", "0..2", "-1"]),
        ({"x": X, "y": Y + 0.5}, "y[0]", ["y[0] is 0.5", "integers"]),
        ({"x": X, "y": np.where(Y == 2, np.nan, Y)}, "y[2]", ["y[2] is nan", "integers"]),
        ({"x": X, "y": np.eye(3)[Y]}, "y", ["(30, 3)", "argmax"]),
        ({"x": X, "y": Y == 1}, "y", ["bool", "integer"]),
        ({"x": X, "y": np.eye(3)[Y].astype(int)}, "y", ["(30, 3)", "argmax"]),
        ({"x": X, "y": np.array(["a", "b", "c"])[Y]}, "y", ["text", "integer"]),
        ({"x": X, "y": Y[:-1]}, "y", ["30 samples", "29 labels"]),
        ({"x_train": X, "y_train": Y}, "x", ["x is missing", "x_train"]),
        ({"x": X, "y": Y, "x_test": X}, "x_test", ["unknown"]),
        ({"x": X.astype(int) + 200, "y": Y}, "x", ["int64", "0..255", "float32"]),
        ({"x": X.astype(int) - 1000, "y": Y}, "x", ["0..255"]),
        ({"x": X > 3, "y": Y}, "x", ["bool", "uint8"]),
        ({"x": X.astype(complex), "y": Y}, "x", ["complex128", "float32"]),
        ({"x": NOT_FINITE, "y": Y}, "x", ["not finite", "sample 17"]),
        ({"x": TOO_LARGE, "y": Y}, "x", ["not finite", "sample 4"]),
        ({"x": X.reshape(30, 16), "y": Y}, "x", ["(30, 16)", "(N, 1, H, W)"]),
        ({"x": X.reshape(30, 4, 2, 2), "y": Y}, "x", ["(30, 4, 2, 2)", "(N, H, W, 1)", "1 channels"]),
        ({"x": X[:0], "y": Y[:0]}, "x", ["no samples"]),
        ({"x": np.array(["a"] * 30), "y": Y}, "x", ["text"]),
        ({"x": X, "y": Y, "split": np.array(["train"] * 29 + ["held"])}, "split[29]", ["'held'", '"val"']),
        ({"x": X, "y": Y, "split": np.full(30, 3)}, "split[0]", ["is 3", "0, 1 or 2"]),
        ({"x": X, "y": Y, "split": np.zeros(29, int)}, "split", ["29", "30"]),
        ({"x": X, "y": Y, "split": np.ones(30, int)}, "train", ['"train" is empty']),
        ({"x": np.array([object()] * 30), "y": Y}, "x", ["pickl"]),
    ],
)
def test_refusals_name_what_is_wrong(tmp_path: Path, arrays: dict[str, Any], member: str, words: list[str]) -> None:
    error = refusal(npz(tmp_path, **arrays))
    assert error.member is not None
    assert error.member.removesuffix(".npy") == member
    for word in words:
        assert word in error.detail


def test_a_pickle_inside_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    refusal(npz(tmp_path, x=np.array([Evil()] * 30), y=Y))
    assert not marker.exists()


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    content = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 4, 4)}
    np.lib.format.write_array_header_1_0(content, header)
    with zipfile.ZipFile(tmp_path / "dataset", "w") as archive:
        archive.writestr("x.npy", content.getvalue() + bytes(100))
        archive.writestr("y.npy", b"\x93NUMPY\x01\x00")
    error = refusal(tmp_path / "dataset")
    assert error.member == "x.npy"
    assert "promises" in error.detail


def test_arrays_larger_than_an_image_may_be(tmp_path: Path) -> None:
    dataset = load(npz(tmp_path, x=X, y=Y), limits=Limits(member_bytes=100))
    assert len(gather(dataset)) == 30


def test_a_bomb_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "dataset"
    with path.open("wb") as file:
        np.savez_compressed(file, x=np.zeros((3000, 20, 20), np.uint8), y=labels(3000))
    assert "bomb" in refusal(path, limits=Limits(ratio_from_bytes=1 << 20)).detail
    assert "at most 1000000 are read" in refusal(path, limits=Limits(total_bytes=1_000_000)).detail


@pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
def test_damaged_files(tmp_path: Path, where: float) -> None:
    content = bytearray(npz(tmp_path, x=X, y=Y).read_bytes())
    (tmp_path / "cut").write_bytes(content[: int(len(content) * where)])
    assert "damaged" in refusal(tmp_path / "cut").detail
    content[300] ^= 0xFF
    (tmp_path / "flipped").write_bytes(content)
    error = refusal(tmp_path / "flipped")
    assert error.member == "x.npy"
    assert "damaged" in error.detail


@pytest.mark.parametrize(
    "content", [b"", b"hello", bytes(2000), b"\x93NUMPY\x01\x00", b"\x80\x04K\x01.", b"\x89HDF\r\n"]
)
def test_unknown_formats(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset").write_bytes(content)
    error = refusal(tmp_path / "dataset")
    assert error.field == "dataset.upload"
    assert "npz" in error.detail


def test_damaged_safetensors(tmp_path: Path) -> None:
    save_file({"x": torch.rand(30, 1, 4, 4), "y": torch.arange(30) % 3}, tmp_path / "whole")
    (tmp_path / "dataset").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    assert "can't be read" in refusal(tmp_path / "dataset").detail


def test_resized_arrays(tmp_path: Path) -> None:
    x = np.full((30, 8, 8), 100, np.uint8)
    x[:, :, 4:] = 200
    dataset = load(npz(tmp_path, x=x, y=Y), size=[4, 6])
    first = dataset.splits[Split.TRAIN].x[0, 0]
    assert first.shape == (4, 6)
    assert (first[:, 0] == 100).all()
    assert (first[:, 5] == 200).all()
    assert dataset.preprocessing.size == [4, 6]


def test_samples_without_labels(tmp_path: Path) -> None:
    split = np.repeat([0, 1, 2], 10)
    path = npz(tmp_path, x=X, y=np.where(split == 2, Y, -1), split=split)
    error = refusal(path)
    assert (error.field, error.member) == ("dataset.unlabelled", "y[0]")
    assert "give dataset.unlabelled -1 if the samples with -1 have no label" in error.detail
    some = load(path, unlabelled=-1)
    assert [some.splits[s].labelled for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [False, False, True]
    none = load(npz(tmp_path, x=X, split=split))
    assert not any(arrays.labelled for arrays in none.splits.values())
    hidden = load(npz(tmp_path, x=X, y=Y, split=split), labels=False)
    assert [hidden.splits[s].labelled for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [False, False, True]
    assert torch.equal(hidden.splits[Split.TEST].y, torch.from_numpy(Y)[20:])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_labels_may_be_integers_that_are_written_as_floats(tmp_path: Path, dtype: str) -> None:
    split = np.repeat([0, 1, 2], 10)
    for y in (Y.astype(dtype), Y.astype(dtype)[:, None]):
        dataset = load(npz(tmp_path, x=X, y=y, split=split))
        assert torch.cat([dataset.splits[s].y for s in Split]).tolist() == Y.tolist()
    save_file({"x": torch.from_numpy(X), "y": torch.from_numpy(Y).bfloat16()}, tmp_path / "dataset")
    assert load(tmp_path / "dataset").splits[Split.TRAIN].labelled


def test_other_labels_may_mean_none(tmp_path: Path) -> None:
    split = np.repeat([0, 1, 2], 10)
    path = npz(tmp_path, x=X, y=np.where(split == 2, Y, 255).astype(np.uint8), split=split)
    assert [load(path, unlabelled=255).splits[s].labels for s in Split] == [0, 0, 10]
    assert refusal(path).member == "y[0]"
    assert refusal(npz(tmp_path, x=X, y=np.where(split == 2, Y, -1)), unlabelled=255).member == "y[0]"


def test_labels_that_are_all_minus_one_are_none_with_a_note(tmp_path: Path) -> None:
    dataset = load(npz(tmp_path, x=X, y=np.full(30, -1)))
    assert not any(arrays.labels for arrays in dataset.splits.values())
    assert dataset.notes[0] == "all labels are -1, which is read as no label"


def test_a_test_split_that_was_held_out_is_told(tmp_path: Path) -> None:
    [note] = load(npz(tmp_path, x=X, y=Y)).notes
    assert note.startswith("the data has no test split, so 3 of its samples were held out for the test")
    assert load(npz(tmp_path, x=X, y=Y, split=np.repeat([0, 0, 2], 10))).notes == []


def test_fewer_samples_keep_the_classes_shares(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.repeat(X, 10, 0), y=np.repeat(Y, 10), split=np.arange(300) % 3)
    few = load(path, train_samples=12).splits[Split.TRAIN]
    assert all(abs(count - 4) <= 1 for count in torch.bincount(few.y).tolist())
    assert torch.equal(few.x, load(path, train_samples=12).splits[Split.TRAIN].x)
    error = refusal(path, train_samples=101)
    assert error.field == "dataset.train_samples"


def test_labels_that_are_left_unread_do_not_choose_the_samples(tmp_path: Path) -> None:
    x, split = np.repeat(X, 10, 0), np.arange(300) % 3
    chosen = [
        load(npz(tmp_path, x=x, y=y, split=split), train_samples=12, labels=False).splits[Split.TRAIN].x
        for y in (np.repeat(Y, 10), np.repeat(Y[::-1], 10), np.tile(Y, 10))
    ]
    assert all(torch.equal(rows, chosen[0]) for rows in chosen[1:])


def test_a_shift_as_large_as_the_image(tmp_path: Path) -> None:
    path = npz(tmp_path, x=X, y=Y)
    request = DatasetRequest(upload="upl_x")
    with pytest.raises(DatasetError, match="at most 3") as caught:
        load_dataset(request, Augmentation(shift=4), path, Interface(1, 3))
    assert caught.value.field == "augmentation.shift"
    kept = Augmentation(shift=3, flip=True)
    assert load_dataset(request, kept, path, Interface(1, 3)).augmentation == kept


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"mean": [0.5, 0.5]}, "dataset.mean"),
        ({"std": [1.0, 1.0]}, "dataset.std"),
        ({"class_order": ["a"]}, "dataset.class_order"),
    ],
)
def test_values_that_do_not_fit_the_teacher(tmp_path: Path, request_: dict[str, Any], field: str) -> None:
    assert refusal(npz(tmp_path, x=X, y=Y), **request_).field == field
