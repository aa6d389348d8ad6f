"""Mixing inputs: with few samples, mixtures of two of them are new ones that the teacher can answer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lit_core.data.labels import NO_LABEL
from lit_core.training.batch import Batch

MOST = 0.5
"""The weight of the other sample is drawn from 0 to this, so that the sample itself prevails."""


def mixed(batch: Batch, share: float) -> Batch:
    """The batch with this share of its samples mixed, each with another of the batch: `(1 - λ)·x_i + λ·x_j` (mixup,
    Zhang et al., ICLR 2018). They have no label, so only the teacher teaches them. Inputs are floats."""
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
    own, others, weight = own.to(x.device), others.to(x.device), weights.to(x).view(-1, *(1 for _ in x.shape[1:]))
    mixtures = x.clone()
    mixtures[own] = torch.lerp(x[own], x[others], weight)
    return mixtures
