"""scikit-learn's handwritten digits: 1,797 bundled images of 8x8 pixels, with fixed splits."""

from __future__ import annotations

from importlib.metadata import distribution

import numpy as np
import torch
from numpy.typing import NDArray

from lit_core.data.errors import DatasetError
from lit_core.data.source import Interface, Raw
from lit_core.data.splits import assign
from lit_spec import DatasetRequest, Modality

NAMES = [str(digit) for digit in range(10)]
HELD_OUT = 0.2
"""For validation, and again for the test: 60/20/20, whatever fractions the request has."""


def read_digits(request: DatasetRequest, interface: Interface) -> Raw:
    """x (1797, 1, 8, 8) uint8, the original 0..16 scaled to 0..255. Raises DatasetError."""
    channels, classes = interface.channels, interface.classes
    if interface.modality == Modality.TEXT:
        raise DatasetError("digits are images, but the teacher takes texts", field="dataset.builtin")
    if (channels, classes) != (1, len(NAMES)):
        raise DatasetError(
            f"digits has 1 channel and 10 classes, but the teacher takes {channels} and has {classes}: "
            "use the data that the teacher was trained on",
            field="dataset.builtin",
        )
    order = request.class_order or NAMES
    if sorted(order) != NAMES:
        raise DatasetError(f"the classes of digits are {NAMES}: name each once", field="dataset.class_order")
    rows = _bundled_rows()
    pixels = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    fixed = DatasetRequest(builtin="digits", validation_fraction=HELD_OUT, test_fraction=HELD_OUT)
    codes = assign(labels, None, fixed)
    output = torch.tensor([order.index(name) for name in NAMES])
    return Raw(torch.from_numpy(pixels).unsqueeze(1), output[labels], codes, list(order))


def _bundled_rows() -> NDArray[np.float64]:
    """(1797, 65): 64 pixels from 0 to 16, and the label.

    Straight from scikit-learn's file: its import, with scipy's and pandas', takes a second of every job on digits.
    """
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    return np.loadtxt(str(path), delimiter=",")
