"""The digits are those of scikit-learn, without the time that it takes to import it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from sklearn.datasets import load_digits

from lit_core.data import Interface, load_dataset
from lit_core.data.readers.digits import read_digits
from lit_spec import DatasetRequest, Split


def test_the_images_and_labels_are_those_of_scikit_learn() -> None:
    bunch = load_digits()
    raw = read_digits(DatasetRequest(builtin="digits"), Interface(1, 10))
    assert np.array_equal(raw.x[:, 0].numpy(), np.rint(bunch.images * (255 / 16)))
    assert np.array_equal(raw.y.numpy(), bunch.target)
    splits = load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(1, 10)).splits
    assert {name: len(arrays.y) for name, arrays in splits.items()} == {
        Split.TRAIN: 1079,
        Split.VALIDATION: 359,
        Split.TEST: 359,
    }


def test_labels_follow_the_order_of_the_request() -> None:
    order = [str(9 - digit) for digit in range(10)]
    request = DatasetRequest(builtin="digits", class_order=order)
    plain = read_digits(DatasetRequest(builtin="digits"), Interface(1, 10))
    assert torch.equal(read_digits(request, Interface(1, 10)).y, 9 - plain.y)


def test_reading_them_imports_neither_scikit_learn_nor_pandas() -> None:
    code = (
        "import sys; from lit_core.data import Interface, load_dataset; from lit_spec import DatasetRequest; "
        "load_dataset(DatasetRequest(builtin='digits'), None, None, Interface(1, 10)); "
        "print(sorted({'sklearn', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
