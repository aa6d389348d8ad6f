"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler's state."""

from __future__ import annotations

import math

from lit_spec import Constant, Cosine, Linear, Milestones, OneCycle, PhaseSchedule


def learning_rate(phase: PhaseSchedule, step: int, steps_per_epoch: int) -> float:
    """At `step`, counted from 0 over the whole phase. Momentum is not cycled."""
    total = phase.epochs * steps_per_epoch
    position = (step + 0.5) / total
    match phase.schedule:
        case Constant():
            return phase.learning_rate
        case Milestones(milestones=milestones, gamma=gamma):
            epoch = step // steps_per_epoch
            return phase.learning_rate * gamma ** sum(epoch >= milestone for milestone in milestones)
        case Cosine():
            return phase.learning_rate * _half_cosine(position)
        case OneCycle(warmup=warmup):
            if position < warmup:
                return phase.learning_rate * position / warmup
            return phase.learning_rate * _half_cosine((position - warmup) / (1 - warmup))
        case Linear(start=start):
            return phase.learning_rate * min(1.0, (1 - position) / (1 - start))


def _half_cosine(position: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * position))
