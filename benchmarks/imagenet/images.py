"""ImageNet as a folder: the few training images without labels, and the validation images.

The layout is `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, as torchvision's ImageFolder reads it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZED, CROP = 256, 224
BATCHES_PER_PASS = 50
"""A pass over few images is one batch or two. The workers of a loader should have more to do at a time."""


class UnusableFolder(Exception):
    """The folder is not ImageNet. The message says why."""


@dataclass(frozen=True)
class ImageNet:
    root: Path
    classes: list[int]
    """For each class folder, in alphabetical order, the network's output: its place among the 1,000 sorted wnids."""

    @classmethod
    def open(cls, root: Path) -> ImageNet:
        """A folder with all 1,000 classes or some of them. Raises UnusableFolder."""
        wnids: list[str] = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
        found = {split: _class_folders(root / split) for split in ("train", "val")}
        if found["train"] != found["val"]:
            odd = sorted(set(found["train"]) ^ set(found["val"]))
            raise UnusableFolder(f"{odd[0]} is only in one of {root}/train and {root}/val: both need the same classes")
        unknown = sorted(set(found["train"]) - set(wnids))
        if unknown:
            raise UnusableFolder(
                f"{root}/train/{unknown[0]} is not the wnid of one of ImageNet-1k's classes, as n01440764 is, so its "
                "images have no output of the network: name the folders by wnids"
            )
        return cls(root, [wnids.index(name) for name in found["train"]])

    def few_images(self, number: int, seed: int) -> list[Image.Image]:
        """The same number of each class, as far as it goes; the others each of a random class. Without labels."""
        by_class: dict[int, list[str]] = {}
        for path, label in sorted(ImageFolder(self.root / "train").samples):
            by_class.setdefault(label, []).append(path)
        most = sum(map(len, by_class.values()))
        if number > most:
            raise UnusableFolder(f"{self.root}/train has {most} images, but {number} are asked for: use fewer samples")
        paths = []
        chance = random.Random(seed)  # noqa: S311
        for label in list(by_class) * (number // len(by_class)):
            if by_class[label]:
                paths.append(by_class[label].pop(chance.randrange(len(by_class[label]))))
        while len(paths) < number:
            label = chance.choice([label for label, left in by_class.items() if left])
            paths.append(by_class[label].pop(chance.randrange(len(by_class[label]))))
        return [_decoded(path) for path in paths]

    def validation(self, crop: int, batch_size: int, workers: int) -> DataLoader[Any]:
        """Batches of images and the outputs of their classes."""
        folder = ImageFolder(self.root / "val", plain(crop), target_transform=self.classes.__getitem__)
        return DataLoader(folder, batch_size, num_workers=workers, pin_memory=torch.cuda.is_available())


def training_batches(images: list[Image.Image], crop: int, batch_size: int, workers: int, seed: int) -> DataLoader[Any]:
    """Augmented batches without labels; in each pass others."""
    augmentation = v2.Compose([v2.RandomResizedCrop(crop), v2.RandomHorizontalFlip(), *_normalised()])
    return DataLoader(
        _Images(images, augmentation),
        batch_sampler=_RepeatedBatches(len(images), batch_size, seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),
    )


def plain_batches(images: list[Image.Image], crop: int, batch_size: int) -> list[Tensor]:
    """The images as they are validated."""
    stacked = torch.stack([plain(crop)(image) for image in images])
    return [stacked[start : start + batch_size] for start in range(0, len(stacked), batch_size)]


def plain(crop: int) -> Callable[[Image.Image], Tensor]:
    transform: Callable[[Image.Image], Tensor] = v2.Compose(
        [v2.Resize(round(crop * RESIZED / CROP)), v2.CenterCrop(crop), *_normalised()]
    )
    return transform


def _normalised() -> list[v2.Transform]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UnusableFolder(
            f"{folder} is not there: give the folder that has train/<wnid>/*.JPEG and val/<wnid>/*.JPEG"
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise UnusableFolder(
            f"{folder} has no folders of classes: sort its images into folders named by wnids, as {folder}/n01440764"
        )
    return names


def _decoded(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


class _Images(Dataset[Tensor]):
    def __init__(self, images: list[Image.Image], transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Tensor:
        return self.transform(self.images[place])


class _RepeatedBatches(Sampler[list[int]]):
    """The images in random order, again and again; of each round the last batch is left out if it is not full."""

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.images, self.batch_size = images, min(batch_size, images)
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return BATCHES_PER_PASS

    def __iter__(self) -> Iterator[list[int]]:
        order: list[int] = []
        for _ in range(BATCHES_PER_PASS):
            if len(order) < self.batch_size:
                order = torch.randperm(self.images, generator=self.generator).tolist()
            batch, order = order[: self.batch_size], order[self.batch_size :]
            yield batch
