"""Which samples are held out, and that the built-in digits are the same for everyone."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lit_core.data import Dataset, DatasetError, Interface, load_dataset
from lit_core.data.splits import SPLITS, assign, hold_out, partition
from lit_spec import DatasetRequest, Modality, Split


def request(validation: float = 0.1, test: float = 0.1) -> DatasetRequest:
    return DatasetRequest(upload="upl_x", validation_fraction=validation, test_fraction=test)


labels = st.lists(st.integers(0, 4), min_size=1, max_size=300).map(torch.tensor)


@settings(max_examples=200, deadline=None)
@given(y=labels, share=st.floats(0, 1))
def test_hold_out_takes_each_class_by_its_share(y: torch.Tensor, share: float) -> None:
    count = int(len(y) * share)
    rows = hold_out(y, count)
    assert len(rows) == count
    assert (rows.diff() > 0).all()
    for label in range(5):
        expected = int((y == label).sum()) * count / len(y)
        assert abs(int((y[rows] == label).sum()) - expected) <= 1
    assert torch.equal(rows, hold_out(y, count))


@settings(max_examples=200, deadline=None)
@given(y=labels, validation=st.floats(0.01, 0.6), test=st.floats(0.01, 0.6))
def test_counts_are_the_fractions_of_the_training_split(y: torch.Tensor, validation: float, test: float) -> None:
    wanted = round(len(y) * validation), round(len(y) * test)
    if min(wanted) == 0 or sum(wanted) > len(y) - 2:
        with pytest.raises(DatasetError, match=r"is empty|is left with 1 sample"):
            assign(y, None, request(validation, test))
        return
    codes = assign(y, None, request(validation, test))
    assert torch.bincount(codes, minlength=3).tolist() == [len(y) - sum(wanted), *wanted]


@settings(max_examples=200, deadline=None)
@given(codes=st.lists(st.integers(0, 2), min_size=20, max_size=3000).map(torch.tensor), chunk=st.just(1024))
def test_given_splits_are_kept_and_partition_loses_nothing(codes: torch.Tensor, chunk: int) -> None:
    assume(len(codes.unique()) == 3 and int((codes == 0).sum()) > 1)
    y = torch.arange(len(codes))
    assert torch.equal(assign(y, codes, request()), codes)
    x = y.view(-1, 1, 1, 1).expand(-1, 2, 1, 3).clone()
    parts = partition(x, y, codes)
    for code, split in enumerate(SPLITS):
        rows, own = parts[split]
        assert own.tolist() == (codes == code).nonzero().squeeze(1).tolist()
        assert torch.equal(rows[:, 1, 0, 2], own)


def test_large_training_splits_are_moved_in_place() -> None:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 3, (9_000,), generator=generator)
    y = torch.arange(9_000)
    x = y.view(-1, 1, 1, 1).clone()
    train = partition(x, y, codes)[Split.TRAIN]
    assert torch.equal(train[0].flatten(), train[1])
    assert train[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("fractions", "samples", "field", "words"),
    [
        ((0.01, 0.1), 20, "dataset.validation_fraction", ['"val" is empty', "0.01 of 20"]),
        ((0.1, 0.01), 20, "dataset.test_fraction", ['"test" is empty', "raise test_fraction"]),
        ((0.5, 0.5), 20, "dataset.validation_fraction", ['"train" is empty', "lower"]),
    ],
)
def test_hold_outs_that_leave_nothing(fractions: Any, samples: int, field: str, words: list[str]) -> None:
    with pytest.raises(DatasetError) as caught:
        assign(torch.zeros(samples, dtype=torch.int64), None, request(*fractions))
    assert caught.value.field == field
    for word in words:
        assert word in caught.value.detail


def test_only_the_missing_split_is_held_out() -> None:
    codes = torch.tensor([0] * 20 + [1] * 5)
    assigned = assign(torch.arange(25) % 2, codes, request(test=0.25))
    assert torch.bincount(assigned).tolist() == [15, 5, 5]
    assert (assigned[20:] == 1).all()


def digits(**options: Any) -> Any:
    return load_dataset(DatasetRequest(builtin="digits", **options), None, None, Interface(1, 10))


def test_digits_have_one_split_for_everyone() -> None:
    dataset = digits()
    assert {split: len(arrays.y) for split, arrays in dataset.splits.items()} == {
        "train": 1079,
        "val": 359,
        "test": 359,
    }
    same = digits(validation_fraction=0.3, test_fraction=0.05)
    for split, arrays in dataset.splits.items():
        assert torch.equal(arrays.x, same.splits[split].x)
        assert arrays.x.shape[1:] == (1, 8, 8)
        assert (torch.bincount(arrays.y) / len(arrays.y) - 0.1).abs().max() < 0.01
    # Pinned: a teacher was trained on this training split, so no sample may ever move to the test split.
    test = dataset.splits[Split.TEST]
    digest = hashlib.sha256(test.x.contiguous().numpy().tobytes() + test.y.numpy().tobytes()).hexdigest()
    assert digest.startswith("5229b06fa8d6b9da")
    assert (int(dataset.splits[Split.TRAIN].x.min()), int(dataset.splits[Split.TRAIN].x.max())) == (0, 255)
    assert dataset.augmentation.shift == 1


def test_digits_in_another_class_order() -> None:
    order = [str(9 - digit) for digit in range(10)]
    assert torch.equal(digits(class_order=order).splits[Split.TEST].y, 9 - digits().splits[Split.TEST].y)
    with pytest.raises(DatasetError) as caught:
        digits(class_order=[*order[:-1], "ten"])
    assert caught.value.field == "dataset.class_order"


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 12)])
def test_digits_for_another_teacher(channels: int, classes: int) -> None:
    with pytest.raises(DatasetError, match="1 channel and 10 classes") as caught:
        load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(channels, classes))
    assert caught.value.field == "dataset.builtin"


def test_samples_in_two_splits_and_splits_of_one_class_are_told(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)
    y, split = np.arange(60) % 3, np.repeat(["train", "val", "test"], 20)

    def notes(x: Any, y: Any) -> list[str]:
        np.savez(tmp_path / "data.npz", x=x, y=y, split=split)
        return load_dataset(request(), None, tmp_path / "data.npz", Interface(1, 3)).notes

    assert notes(x, y) == []
    again = x.copy()
    again[45:50] = x[5:10]
    assert notes(again, y) == [
        '5 different samples of the split "test" are in the training split as well, so that what is measured on them '
        "says little of new ones"
    ]
    assert notes(x, np.where(split == "val", 2, y)) == ['all labels of the split "val" are 2']


# --- a test upload --------------------------------------------------------------------------------------------------


def saved(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def with_test(tmp_path: Path, test: dict[str, Any], **request: Any) -> Dataset:
    """60 training samples of 4x4 pixels whose own test split is not used."""
    split = np.array(["train"] * 50 + ["test"] * 10)
    train = saved(tmp_path / "train", x=np.zeros((60, 4, 4), np.uint8), y=np.arange(60) % 3, split=split)
    asked = DatasetRequest(upload="upl_a", test_upload="upl_b", **request)
    return load_dataset(asked, None, train, Interface(1, 3), test=saved(tmp_path / "test", **test))


def test_an_upload_of_its_own_is_the_test_split(tmp_path: Path) -> None:
    split = np.array(["train", "val", "test"] * 4)
    data = with_test(tmp_path, {"x": np.full((12, 4, 4), 7, np.uint8), "y": np.arange(12) % 2, "split": split})
    assert {split.value: len(part.y) for split, part in data.splits.items()} == {"train": 45, "val": 5, "test": 12}
    assert data.splits[Split.TEST].y.tolist() == [0, 1] * 6
    assert not [note for note in data.notes if "held out" in note]
    sized = with_test(tmp_path, {"x": np.zeros((12, 9, 5), np.uint8), "y": np.arange(12) % 3}, size=[4, 4])
    assert sized.splits[Split.TEST].x.shape == (12, 1, 4, 4)


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ({"x": np.zeros((12, 9, 5), np.uint8), "y": np.arange(12) % 3}, r"of \(1, 9, 5\) uint8, but .* dataset.size"),
        ({"x": np.zeros((12, 4, 4), np.float32), "y": np.arange(12) % 3}, r"\(1, 4, 4\) float32"),
        ({"x": np.zeros((12, 4, 4), np.uint8), "y": np.arange(12)}, r"the test upload: y\[3\] is 3"),
        ({"images": np.zeros(3)}, "the test upload: the array x is missing"),
    ],
)
def test_a_test_upload_that_does_not_fit_is_named(tmp_path: Path, test: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        with_test(tmp_path, test)
    assert caught.value.field == "dataset.test_upload"


def test_the_classes_of_a_test_upload_are_those_of_the_data(tmp_path: Path) -> None:
    """Here the texts of the test have one of the three labels."""
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("".join(f"{'abc'[n % 3]},text {n}\n" for n in range(60)))
    test.write_text("".join(f"b,other {n}\n" for n in range(5)))
    asked = DatasetRequest(upload="upl_a", test_upload="upl_b")
    interface = Interface(None, 3, Modality.TEXT, vocabulary_size=69)
    data = load_dataset(asked, None, train, interface, test=test)
    assert data.splits[Split.TEST].y.tolist() == [1] * 5
    assert len(data.splits[Split.TRAIN].y) + len(data.splits[Split.VALIDATION].y) == 60


def test_labels_of_a_test_upload_for_training_data_without_any(tmp_path: Path) -> None:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.csv"
    train.write_text("".join(f'{{"text": "text {n}"}}\n' for n in range(60)))
    test.write_text("".join(f"{('pos', 'neg')[n % 2]},other {n}\n" for n in range(6)))
    asked = DatasetRequest(upload="upl_a", test_upload="upl_b")
    data = load_dataset(asked, None, train, Interface(None, 2, Modality.TEXT, vocabulary_size=69), test=test)
    assert data.classes == ["neg", "pos"]
    assert data.splits[Split.TEST].y.tolist() == [1, 0] * 3


def test_named_classes_of_a_test_upload_are_not_guessed_for_numbers(tmp_path: Path) -> None:
    """Sorted as texts, 10 would come before 2."""
    train = saved(tmp_path / "train", x=np.array([f"text {n}" for n in range(60)]), y=np.arange(60) % 12)
    test = tmp_path / "test.csv"
    test.write_text("".join(f"class {n % 12},other {n}\n" for n in range(24)))
    interface = Interface(None, 12, Modality.TEXT, vocabulary_size=69)
    asked = DatasetRequest(upload="upl_a", test_upload="upl_b")
    with pytest.raises(DatasetError, match="the training labels are numbers") as caught:
        load_dataset(asked, None, train, interface, test=test)
    assert caught.value.field == "dataset.class_order"
    order = [f"class {n}" for n in range(12)]
    data = load_dataset(asked.model_copy(update={"class_order": order}), None, train, interface, test=test)
    assert data.splits[Split.TEST].y.tolist() == [*range(12)] * 2
