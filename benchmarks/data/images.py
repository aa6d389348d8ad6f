"""JPEGs for the benchmark, in the three layouts that the arms read."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT = 500
"""Different images; more would take longer to make, and no decoder knows that it sees one again."""
DETAIL = 8
"""One random colour for each square of so many pixels, blurred: about as many bytes as a photograph."""
CLASSES = 10
SHARDS = 4
QUALITY = 90


@dataclass(frozen=True)
class Images:
    """The same images three times."""

    folder: Path
    archive: Path
    shards: list[Path]
    count: int
    bytes: int


def make_images(folder: Path, count: int, side: int) -> Images:
    """Squares of `side` pixels: as CLASS/NUMBER.jpg in a folder and in a zip archive, and as WebDataset."""
    distinct = [_jpeg(number, side) for number in range(min(count, DISTINCT))]
    contents = [(number, distinct[number % len(distinct)]) for number in range(count)]
    tree, archive = folder / "tree", folder / "images.zip"
    for label in range(CLASSES):
        (tree / str(label)).mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for number, content in contents:
            name = f"{number % CLASSES}/{number:07}.jpg"
            (tree / name).write_bytes(content)
            packed.writestr(name, content)
    shards = [folder / f"shard-{shard}.tar" for shard in range(SHARDS)]
    for shard, path in enumerate(shards):
        with tarfile.open(path, "w") as packed_shard:
            for number, content in contents[shard::SHARDS]:
                _add(packed_shard, f"{number:07}.jpg", content)
                _add(packed_shard, f"{number:07}.cls", str(number % CLASSES).encode())
    return Images(tree, archive, shards, count, sum(len(content) for _, content in contents))


def make_archive(path: Path, count: int, side: int, *, labelled: bool = True) -> Path:
    """Only the zip archive. Without labels there are no folders in it."""
    distinct = [_jpeg(number, side) for number in range(min(count, DISTINCT))]
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(count):
            name = f"{number % CLASSES}/{number:07}.jpg" if labelled else f"{number:07}.jpg"
            packed.writestr(name, distinct[number % len(distinct)])
    return path


def _jpeg(number: int, side: int) -> bytes:
    colours = np.random.default_rng(number).integers(0, 256, (side // DETAIL, side // DETAIL, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
