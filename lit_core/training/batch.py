"""The samples of one training step, and which of them this process runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from lit_core.data.views import SampleViews


class Share(Protocol):
    """The rows of a step's batch that this process runs; other processes of its group run the others."""

    def samples(self, own: int) -> int:
        """Samples of the whole batch, of which `own` are these rows."""

    def rows_of(self, draw: Callable[[int], Tensor], own: int) -> Tensor:
        """These rows of what is drawn for the whole batch. `draw` gets the number of its rows, of which `own` are here.

        Every process draws for all rows, so that the numbers are those that one process alone would draw.
        """

    def mean(self, own: Tensor) -> Tensor:
        """The mean over the whole batch, from the mean over these rows, without gradients."""

    def backward(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Compute the gradients of the mean loss over the whole batch, from the mean over these rows."""

    def whole_statistics(self) -> AbstractContextManager[None]:
        """Meanwhile BatchNorm in training mode takes its statistics from the whole batch."""


class Whole:
    """All rows: the batch of a process that trains alone."""

    def samples(self, own: int) -> int:
        return own

    def rows_of(self, draw: Callable[[int], Tensor], own: int) -> Tensor:
        return draw(own)

    def mean(self, own: Tensor) -> Tensor:
        return own

    def backward(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:  # noqa: ARG002
        loss.backward()  # type: ignore[no-untyped-call]

    def whole_statistics(self) -> AbstractContextManager[None]:
        return nullcontext()


WHOLE = Whole()


@dataclass(frozen=True)
class Batch:
    """The samples of one step, or this process's part of them."""

    inputs: tuple[Tensor, ...]
    """The network's inputs: (B, C, H, W) for images, (B, L) for texts; a generator's target domains after them."""
    labels: Tensor
    """(B,) int64, NO_LABEL for a sample without a label. For a generator: the images' own domains (B, domains)."""
    progress: float = 0.0
    """How much of the phase is done, from 0 to 1."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """On the CPU, so that everything drawn in this step is the same on every device and in every process."""
    samples: SampleViews | None = None
    """Which samples these are, if the inputs follow from them alone. None: nobody knows."""
    share: Share = WHOLE
    """Which rows of the step's batch these are."""

    @property
    def whole_samples(self) -> int:
        """Number of samples of the whole batch."""
        return self.share.samples(len(self.labels))
