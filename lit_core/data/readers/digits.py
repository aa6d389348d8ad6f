"""scikit-learn's handwritten digits: 1,797 bundled images of 8x8 pixels, with fixed splits."""

from __future__ import annotations

import numpy as np
import torch

from lit_core.data.errors import DatasetError
from lit_core.data.source import Interface, Raw
from lit_core.data.splits import assign
from lit_spec import DatasetRequest, Modality

NAMES = [str(digit) for digit in range(10)]
HELD_OUT = 0.2
"""For validation, and again for the test: 60/20/20, whatever fractions the request has."""


def read_digits(request: DatasetRequest, interface: Interface) -> Raw:
    """x (1797, 1, 8, 8) uint8, the original 0..16 scaled to 0..255. Raises DatasetError."""
    from sklearn.datasets import load_digits  # imported here because it is slow to import

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
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    fixed = DatasetRequest(builtin="digits", validation_fraction=HELD_OUT, test_fraction=HELD_OUT)
    codes = assign(labels, None, fixed)
    output = torch.tensor([order.index(name) for name in NAMES])
    return Raw(torch.from_numpy(pixels).unsqueeze(1), output[labels], codes, list(order))
