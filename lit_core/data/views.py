"""Views of samples: what is random about a sample in a step, as a function of the sample and a number.

View `v` of sample `r` is the same in every batch, so what a teacher makes of it can be kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_core.seeding import generator_of, mix

SHARED_SEED = 0
"""Of views that are used again and again. Jobs with other seeds have them too, and share what is kept of them."""
GAMMA, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class SampleViews:
    """Samples of a split, each in one of its views. All random numbers follow from (seed, row, view)."""

    rows: Tensor
    """(B,) int64."""
    views: Tensor
    """(B,) int64, from 0."""
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, index: Tensor | slice) -> SampleViews:
        """Some of the samples: `index` is a mask (B,), or places."""
        return replace(self, rows=self.rows[index], views=self.views[index])

    def of_rows(self, rows: Tensor) -> SampleViews:
        """Other samples in the same views."""
        return replace(self, rows=rows)

    def uniform(self, purpose: str) -> Tensor:
        """A number from [0, 1) for each sample, (B,) float32, that is independent of those for other purposes."""
        # The upper 24 bits are what float32 can hold.
        return torch.from_numpy((self._hashes(purpose) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))

    def generators(self, purpose: str) -> Iterator[torch.Generator]:
        """A stream of random numbers for each sample, on the CPU."""
        for row, view in zip(self.rows.tolist(), self.views.tolist(), strict=True):
            yield generator_of(self.seed, purpose, row, view)

    def _hashes(self, purpose: str) -> Hashes:
        key = np.uint64(mix(self.seed, purpose))
        return _hashed(
            _hashed(key + self.rows.numpy().astype(np.uint64) * GAMMA) + self.views.numpy().astype(np.uint64) * GAMMA
        )


@dataclass(frozen=True)
class ViewPlan:
    """Which view of a sample each pass over the data shows."""

    seed: int
    """The job's."""
    count: int | None = None
    """How many views a sample has, which are used again and again. None: each pass of each phase shows new ones."""

    def of(self, phase: str, rows: Tensor, passes: Tensor) -> SampleViews:
        """Samples (B,), each with the number of the pass over the data that it is taken in (B,), from 0.

        The first passes show view 0, view 1, …, the same for every job. After these, each sample has its views in
        another order in each cycle, so that views of different samples meet in new ways.
        """
        if self.count is None:
            return SampleViews(rows, passes, mix(self.seed, "views", phase))
        cycles, places = passes // self.count, passes % self.count
        orders = torch.stack(
            [SampleViews(rows, cycles, mix(self.seed, "cycle", phase, n)).uniform("order") for n in range(self.count)],
            dim=1,
        ).argsort(dim=1)
        shuffled = orders.gather(1, places[:, None])[:, 0]
        return SampleViews(rows, torch.where(cycles == 0, places, shuffled), SHARED_SEED)


def _hashed(numbers: Hashes) -> Hashes:
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * SECOND
    return numbers ^ (numbers >> np.uint64(31))
