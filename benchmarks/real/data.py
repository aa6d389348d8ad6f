"""What the experiments ask of their data, whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Inputs = tuple[Tensor, ...]
"""What a network takes, (B, …) each."""


class Batches(Protocol):
    """The batches of one training, the same every time: `lit_core.compress` iterates over them more than once."""

    def __iter__(self) -> Iterator[tuple[Inputs]]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Draw:
    """Which samples a run trains on, and for how long."""

    samples: int
    seed: int
    steps: int
    batch: int = 32
    augmented: bool = True
    tuning: bool = False
    """Tuning trains and is measured on parts of the training samples; the test samples are for the tables alone."""


class Data(Protocol):
    def training(self, draw: Draw) -> Batches: ...

    def measured(self, *, tuning: bool) -> Inputs:
        """Test samples or, for tuning, the validation part of the training samples."""
        ...

    def counts(self) -> dict[str, int]:
        """What the page says of the data."""
        ...


def shuffled_rows(samples: int, draw: Draw, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of each batch: passes over the samples in random orders, one after the other without a gap."""
    left = torch.empty(0, dtype=torch.long)
    for _ in range(draw.steps):
        while len(left) < draw.batch:
            left = torch.cat([left, torch.randperm(samples, generator=generator)])
        yield left[: draw.batch]
        left = left[draw.batch :]
