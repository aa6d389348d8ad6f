"""Real data and real teachers as people would send them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
TEACHER = ROOT / "examples/digits/teacher.safetensors"
SHORT = {"lit": {"epochs": 1}, "fine_tune": {"epochs": 1}}
SHORTEST = {**SHORT, "steps_per_epoch": 8}
"""As quick as a real training can be."""
QUICK = {"depth": 8, "select": "even"}
"""A student for whose blocks nothing is measured."""


def images(count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """(N, 1, 8, 8) uint8 and labels (N,), as the teacher saw them."""
    bunch = load_digits()
    x = np.rint(bunch.images[:count] * (255 / 16)).astype(np.uint8)[:, None]
    return x, bunch.target[:count].astype(np.int64)


def write_npz(path: Path, x: np.ndarray, y: np.ndarray, **more: np.ndarray) -> Path:
    np.savez_compressed(path, x=x, y=y, **more)
    return path


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def members(count: int = 400, split: bool = True) -> dict[str, bytes]:
    """One PNG an image, in a folder per class, under train, val and test if `split`."""
    x, y = images(count)
    found = {}
    for i, (pixels, label) in enumerate(zip(x, y, strict=True)):
        part = ("train", "train", "val", "test")[i % 4] + "/" if split else ""
        found[f"digits/{part}{label}/{i:04}.png"] = _png(pixels[0])
    return found


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_pt(path: Path) -> Path:
    """The example's teacher as torch.save leaves it after a training on several GPUs."""
    state = {f"module.{name}": tensor for name, tensor in load_file(TEACHER).items()}
    torch.save({"epoch": 40, "state_dict": state}, path)
    return path
