"""What a training step takes, as pure functions of its position: its samples and its learning rate.

A resumed training therefore needs no state of a sampler or a scheduler.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from lit_core.data.views import SampleViews, ViewPlan
from lit_core.seeding import generator_of
from lit_spec import Constant, Cosine, Linear, Milestones, OneCycle, Phase, PhaseSchedule, Schedule


def steps_per_epoch(samples: int, schedule: Schedule) -> int:
    """Steps between two evaluations. A last batch of one sample is left out, because BatchNorm needs two."""
    if schedule.steps_per_epoch is not None:
        return schedule.steps_per_epoch
    whole, rest = divmod(samples, schedule.batch_size)
    return whole + (rest > 1)


def rows_of(samples: int, schedule: Schedule, seed: int, phase: Phase, epoch: int, step: int) -> Tensor:
    """The samples of a step, `epoch` and `step` counted from 0.

    Every pass over the data has its own order. An epoch is a pass, unless `steps_per_epoch` is given: then passes
    follow each other without a gap, and all batches have the same size.
    """
    size = schedule.batch_size
    if schedule.steps_per_epoch is None:
        return _order(samples, seed, phase, epoch)[step * size : (step + 1) * size]
    start = (epoch * schedule.steps_per_epoch + step) * size
    rows = []
    while size:
        number, offset = divmod(start, samples)
        piece = _order(samples, seed, phase, number)[offset : offset + size]
        rows.append(piece)
        start, size = start + len(piece), size - len(piece)
    return torch.cat(rows)


def samples_of(
    views: ViewPlan, samples: int, schedule: Schedule, seed: int, phase: Phase, epoch: int, step: int
) -> SampleViews:
    """The samples of a step, each in the view that its pass over the data shows."""
    rows = rows_of(samples, schedule, seed, phase, epoch, step)
    if schedule.steps_per_epoch is None:
        return views.of(phase.value, rows, torch.full_like(rows, epoch))
    start = (epoch * schedule.steps_per_epoch + step) * schedule.batch_size
    return views.of(phase.value, rows, torch.arange(start, start + len(rows)) // samples)


def passes_over(samples: int, schedule: Schedule, epochs: int) -> float:
    """How many passes over the data so many epochs are."""
    if schedule.steps_per_epoch is None:
        return float(epochs)
    return epochs * schedule.steps_per_epoch * schedule.batch_size / samples


@lru_cache(maxsize=2)
def _order(samples: int, seed: int, phase: Phase, number: int) -> Tensor:
    return torch.randperm(samples, generator=generator_of(seed, "order", phase.value, number))


def learning_rate(phase: PhaseSchedule, step: int, steps_per_epoch: int) -> float:
    """At `step`, counted from 0 over the whole phase. The momentum stays constant."""
    total = phase.epochs * steps_per_epoch
    progress = (step + 0.5) / total
    match phase.schedule:
        case Constant():
            return phase.learning_rate
        case Milestones(milestones=milestones, gamma=gamma):
            epoch = step // steps_per_epoch
            return phase.learning_rate * gamma ** sum(epoch >= milestone for milestone in milestones)
        case Cosine():
            return phase.learning_rate * _half_cosine(progress)
        case OneCycle(warmup=warmup):
            if progress < warmup:
                return phase.learning_rate * progress / warmup
            return phase.learning_rate * _half_cosine((progress - warmup) / (1 - warmup))
        case Linear(start=start):
            return phase.learning_rate * min(1.0, (1 - progress) / (1 - start))


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))
