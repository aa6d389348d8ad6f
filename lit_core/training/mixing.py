"""Mixing inputs: with few samples, mixtures of two of them are new ones that the teacher can answer."""

from __future__ import annotations

from dataclasses import replace

import torch

from lit_core.data.labels import NO_LABEL
from lit_core.training.objectives import Batch

MOST = 0.5
"""The weight of the other sample is drawn from 0 to this, so that the sample itself prevails."""


def mixed(batch: Batch, share: float) -> Batch:
    """The batch with this share of its samples mixed, each with another of the batch: `(1 - λ)·x_i + λ·x_j` (mixup,
    Zhang et al., ICLR 2018). They have no label, so only the teacher teaches them. Inputs are floats."""
    number = round(share * len(batch.labels))
    if number == 0:
        return batch
    weights = MOST * torch.rand(number, generator=batch.generator)
    others = torch.randperm(len(batch.labels), generator=batch.generator)[:number]
    inputs = tuple(_mixed(x, weights, others) for x in batch.inputs)
    labels = batch.labels.clone()
    labels[:number] = NO_LABEL
    return replace(batch, inputs=inputs, labels=labels)


def _mixed(x: torch.Tensor, weights: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    shape = (-1, *(1 for _ in x.shape[1:]))
    own, weight = x[: len(weights)], weights.to(x).view(shape)
    return torch.cat([torch.lerp(own, x[others.to(x.device)], weight), x[len(weights) :]])
