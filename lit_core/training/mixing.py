"""Mixing inputs: with few samples, mixtures of two of them are new ones that the teacher can answer.

A mixture is `(1 - λ)·x_i + λ·x_j` (mixup, Zhang et al., ICLR 2018) and has no label, so only the teacher teaches it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_core.data.labels import NO_LABEL
from lit_core.data.views import SampleViews
from lit_core.training.batch import Batch

MOST = 0.5
"""The weight of the other sample is drawn from 0 to this, so that the sample itself prevails."""


@dataclass(frozen=True)
class Mixtures:
    """Which samples of a batch are mixed, with which others, and how. It follows from the samples' views alone."""

    own: Tensor
    """(M,): their places in the batch."""
    others: SampleViews
    """The samples (M,) of the split that are mixed in."""
    weights: Tensor
    """(M,): λ."""

    def mix(self, x: Tensor, others: Tensor) -> Tensor:
        """The inputs (B, …) with the mixtures in their places. `others` (M, …) are the inputs of the other samples."""
        own = self.own.to(x.device)
        mixtures = x.clone()
        mixtures[own] = torch.lerp(x[own], others, _broadcast(self.weights, x))
        return mixtures


def mixtures_of(samples: SampleViews, share: float, split: int) -> Mixtures:
    """About this share of the samples, each with another one of a split of so many."""
    own = torch.nonzero(samples.uniform("mixed") < (share if split > 1 else 0.0))[:, 0]
    chosen = samples.at(own)
    steps = 1 + (chosen.uniform("other") * (split - 1)).long()
    return Mixtures(own, chosen.of_rows((chosen.rows + steps) % split), MOST * chosen.uniform("weight"))


def mixed(batch: Batch, share: float) -> Batch:
    """The batch with this share of its samples mixed, each with another of the batch. Inputs are floats."""
    samples = len(batch.labels)
    number = round(share * samples)
    if number == 0 or samples == 1:
        return batch
    # Drawn, because data may give its samples in the same order in every epoch.
    order = torch.randperm(samples, generator=batch.generator)
    own, others = order[:number], order.roll(-1)[:number]
    weights = MOST * torch.rand(number, generator=batch.generator)
    labels = batch.labels.clone()
    labels[own.to(labels.device)] = NO_LABEL
    return replace(batch, inputs=tuple(_mixed(x, own, others, weights) for x in batch.inputs), labels=labels)


def _mixed(x: Tensor, own: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    own, others = own.to(x.device), others.to(x.device)
    mixtures = x.clone()
    mixtures[own] = torch.lerp(x[own], x[others], _broadcast(weights, x))
    return mixtures


def _broadcast(weights: Tensor, x: Tensor) -> Tensor:
    return weights.to(x).view(-1, *(1 for _ in x.shape[1:]))
