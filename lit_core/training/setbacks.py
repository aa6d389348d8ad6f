"""What happens when a training becomes unstable: it goes back to its last good state, with a lower learning rate.

Unstable is an epoch whose loss or student is not finite, or whose loss is far above that of the phase's first step
while the student's score has collapsed. Either sign alone also occurs in trainings that end well: losses rise where the
student's sections are fed by one another, and scores fall for some epochs after a high learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lit_core.training.checkpoint import BestEpoch
from lit_core.training.task import Scores
from lit_spec import Phase
from lit_spec.trainer.report import Setback

MOST_SETBACKS = 3
"""In one phase. After that the training has diverged."""
RATE_CUT = 10
"""The learning rate is divided by this at every setback."""
RISE = 2.0
"""Times the first step's loss. A KD loss is hardly higher even at chance, because the teacher's entropy is part of it.
"""
RISE_ALONE = 5.0
"""The same where no score can confirm it."""
COLLAPSE = 0.5
"""Part of the best epoch's score."""


class Diverged(Exception):
    """The training stays unstable at lower learning rates, too."""


class Unstable(Exception):
    """The current epoch is of no use. `loss` is its watched loss, or a number that is not finite."""

    def __init__(self, loss: float) -> None:
        super().__init__(loss)
        self.loss = loss


def has_collapsed(scores: Scores, best: BestEpoch | None) -> bool:
    return bool(scores.metrics) and best is not None and best.score > 0 and scores.value < COLLAPSE * best.score


def has_risen(loss: float, first: float, scores: Scores, best: BestEpoch | None) -> bool:
    """`loss` is the epoch's, `first` that of the phase's first step."""
    if not scores.metrics:
        return loss > RISE_ALONE * first
    return loss > RISE * first and has_collapsed(scores, best)


def cuts_of(setbacks: Sequence[Setback], phase: Phase, first: int) -> int:
    """How often the phase that begins after epoch `first` has lowered its learning rate."""
    return sum(setback.phase == phase and setback.epoch > first for setback in setbacks)


def diverged(setbacks: Sequence[Setback]) -> Diverged:
    """`setbacks` are those of one phase; the last one is what ended it."""
    last = setbacks[-1]
    rates = ", ".join(f"{setback.learning_rate_before:g}" for setback in setbacks[:-1])
    return Diverged(
        f"the training is unstable in epoch {last.epoch} of the {last.phase} phase: {_what_happened(last)}, after the "
        f"same at the learning rates {rates}"
    )


def note_of(setback: Setback) -> str:
    return (
        f"in epoch {setback.epoch} of the {setback.phase} phase {_what_happened(setback)}, so the training went back "
        f"to epoch {setback.back_to} and lowered the learning rate to {setback.learning_rate:g}"
    )


def copied(value: Any) -> Any:
    """A copy of an updater's state on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {name: copied(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(inner) for inner in value)
    return value


def finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _what_happened(setback: Setback) -> str:
    before = "" if setback.loss_before is None else f", after {setback.loss_before:.4g} in the phase's first step"
    loss = "the loss or the student was not finite" if setback.loss is None else f"the loss was {setback.loss:.4g}"
    return f"{loss} at the learning rate {setback.learning_rate_before:g}{before}"
