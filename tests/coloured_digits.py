"""Digits in three colours, and a StarGAN that recolours them: trained within seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from lit_core.networks.families.stargan import Discriminator, Generator
from lit_core.training.adversarial import discriminator_losses
from lit_spec import Adversarial

COLOURS = ("red", "green", "blue")
SIDE = 16


def coloured_digits(count: int = 300) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 16, 16), black but for a digit of one colour, and colours (N,)."""
    grey = np.rint(load_digits().images[:count] * (255 / 16)).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    y = np.arange(count) % len(COLOURS)
    x = np.zeros((count, len(COLOURS), SIDE, SIDE), np.uint8)
    x[np.arange(count), y] = grey
    return x, y


def recoloured(x: NDArray[np.uint8], colours: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The same digits (N, 3, 16, 16) in other colours (N,): what a perfect generator makes."""
    made = np.zeros_like(x)
    made[np.arange(len(x)), colours] = x.max(axis=1)
    return made


def as_input(x: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(x).float() / 127.5 - 1


def train_generator(blocks: int = 6, conv_dim: int = 4, names: str = "main", steps: int = 250) -> Generator:
    """Told the right picture, which is quicker than a discriminator's say."""
    torch.manual_seed(0)
    network = Generator(conv_dim, len(COLOURS), 3, blocks, names, running_statistics=True)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    x, _ = coloured_digits()
    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows, colours = rng.integers(0, len(x), 16), rng.integers(0, len(COLOURS), 16)
        target = F.one_hot(torch.from_numpy(colours), len(COLOURS)).float()
        loss = F.mse_loss(network(as_input(x[rows]), target), as_input(recoloured(x[rows], colours)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def train_discriminator(generator: Generator, steps: int = 40) -> Discriminator:
    torch.manual_seed(0)
    network = Discriminator(4, len(COLOURS), 3, 3, SIDE // 8)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, (0.5, 0.999))
    x, y = coloured_digits()
    for step in range(steps):
        rows = np.arange(16 * step, 16 * (step + 1)) % len(x)
        real, own = as_input(x[rows]), F.one_hot(torch.from_numpy(y[rows]), len(COLOURS)).float()
        with torch.no_grad():
            fake = generator(real, own.roll(1, 0))
        losses = discriminator_losses(network, real, fake, own, torch.rand(16, 1, 1, 1), Adversarial(), exclusive=True)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    return network


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _generator() -> Generator:
    with one_thread():
        return train_generator()


@cache
def _discriminator() -> Discriminator:
    generator = _generator()
    with one_thread():
        return train_discriminator(generator)


def write_generator(folder: Path) -> Path:
    path = folder / "generator.safetensors"
    save_file(_generator().state_dict(), path)
    return path


def write_teachers(folder: Path) -> tuple[Path, Path]:
    """A generator's and a discriminator's file."""
    path = folder / "discriminator.safetensors"
    save_file(_discriminator().state_dict(), path)
    return write_generator(folder), path
