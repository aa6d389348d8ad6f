"""`python -m benchmarks.data.arms ARM FOLDER …`: one arm, in a process of its own, because its memory is measured.

Every arm gives shuffled batches of uint8 images, which the device would normalise, and resizes by Pillow, so that all
have the same pixels.
What an arm needs is imported before the clock starts.
Prints a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data.images import CLASSES
from lit_core.data import Interface, load_dataset
from lit_core.data.store import decoding
from lit_core.data.store.entry import DataStore
from lit_spec import DatasetRequest

MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
SHUFFLED = 1000
"""Samples in WebDataset's buffer, from which it draws."""


class Arm(StrEnum):
    LIT = "lit"
    """Decoded into the store, then read by row."""
    TORCHVISION = "torchvision"
    """ImageFolder and DataLoader."""
    WEBDATASET = "webdataset"
    """Shards and WebLoader."""


Epoch = Callable[[int], Iterable[Tensor]]
"""From an epoch's number its batches (B, 3, H, W) uint8."""


def lit(folder: Path, size: int, batch: int, workers: int) -> Epoch:
    store = DataStore(folder / "store", 1 << 40, processes=workers)
    request = DatasetRequest(upload="upl_bench", size=[size, size], mean=MEAN, std=STD)
    dataset = load_dataset(request, None, folder / "images.zip", Interface(3, CLASSES), store=store)

    def epoch(number: int) -> Iterator[Tensor]:
        for arrays in dataset.splits.values():
            order = torch.randperm(len(arrays.y), generator=torch.Generator().manual_seed(number))
            for rows in torch.split(order, batch):
                yield arrays.x[rows]

    return epoch


def torchvision(folder: Path, size: int, batch: int, workers: int) -> Epoch:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    data = ImageFolder(folder / "tree", v2.Compose([v2.Resize((size, size)), v2.PILToTensor()]))
    loader = torch.utils.data.DataLoader(data, batch, shuffle=True, num_workers=workers, persistent_workers=True)
    return lambda _: (x for x, _ in loader)


def webdataset(folder: Path, size: int, batch: int, workers: int) -> Epoch:
    import webdataset as wds
    from torchvision.transforms import v2

    shards = [str(path) for path in sorted(folder.glob("shard-*.tar"))]
    resize = v2.Compose([v2.Resize((size, size)), v2.PILToTensor()])
    data = wds.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(SHUFFLED).decode("pilrgb")
    samples = data.to_tuple("jpg", "cls").map_tuple(resize, int)
    loader = wds.WebLoader(samples.batched(batch), batch_size=None, num_workers=workers, persistent_workers=True)
    return lambda _: (x for x, _ in loader)


ARMS: dict[Arm, Callable[[Path, int, int, int], Epoch]] = {
    Arm.LIT: lit,
    Arm.TORCHVISION: torchvision,
    Arm.WEBDATASET: webdataset,
}


LIBRARIES: dict[Arm, tuple[str, ...]] = {
    Arm.LIT: (),  # imported above
    Arm.TORCHVISION: ("torchvision.datasets", "torchvision.transforms.v2"),
    Arm.WEBDATASET: ("webdataset", "torchvision.transforms.v2"),
}
"""Only the arm's own, because its memory is measured."""

SUMMED = 16
"""One pixel of so many in a row, and one row of so many."""


def measured(arm: Arm, folder: Path, size: int, batch: int, workers: int, epochs: int) -> dict[str, Any]:
    """Seconds until the batches can be asked for, and of each epoch; the images, and a sum of their pixels."""
    for library in LIBRARIES[arm]:
        import_module(library)
    started = time.perf_counter()
    epoch = ARMS[arm](folder, size, batch, workers)
    found: dict[str, Any] = {"prepare_seconds": time.perf_counter() - started, "epoch_seconds": [], "images": []}
    found["pixels"] = []
    for number in range(epochs):
        images = pixels = 0
        started = time.perf_counter()
        for x in epoch(number):
            images += len(x)
            # Few of them, because the sum takes time.
            pixels += int(x[..., ::SUMMED, ::SUMMED].sum())
        found["epoch_seconds"].append(time.perf_counter() - started)
        found["images"].append(images)
        found["pixels"].append(pixels)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arm", type=Arm)
    parser.add_argument("folder", type=Path)
    for name in ("size", "batch", "workers", "epochs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    decoding.IN_MEMORY_BYTES = 0  # the store is what is measured, however few the images
    found = measured(given.arm, given.folder, given.size, given.batch, given.workers, given.epochs)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the loaders' processes end with this one, and their shutdown is not measured


if __name__ == "__main__":
    sys.exit(main())
