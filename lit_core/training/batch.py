"""The samples of one training step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_core.data.views import SampleViews


@dataclass(frozen=True)
class Batch:
    """The samples of one step."""

    inputs: tuple[Tensor, ...]
    """The network's inputs: (B, C, H, W) for images, (B, L) for texts; a generator's target domains after them."""
    labels: Tensor
    """(B,) int64, NO_LABEL for a sample without a label. For a generator: the images' own domains (B, domains)."""
    progress: float = 0.0
    """How much of the phase is done, from 0 to 1."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """On the CPU, so that everything drawn in this step is the same on every device."""
    samples: SampleViews | None = None
    """Which samples these are, if the inputs follow from them alone. None: nobody knows."""
