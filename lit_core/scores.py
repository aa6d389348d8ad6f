"""What is counted in a classifier's answers. Accuracies and shares are in percent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Logits (N, classes) and labels (N,), on the CPU."""

    logits: Tensor
    labels: Tensor


def top1(prediction: Prediction) -> float:
    return _percent(prediction.logits.argmax(dim=1) == prediction.labels)


def agreement(logits: Tensor, others: Tensor) -> float:
    """How often two networks give the same answer."""
    return _percent(logits.argmax(dim=1) == others.argmax(dim=1))


def near_chance(accuracy: float, chance: float, samples: int) -> bool:
    """Not above chance by 5 points and three standard errors: such a teacher has nothing to teach.

    Where chance leaves little room, half of the room is enough.
    """
    share = chance / 100
    standard_error = 100 * math.sqrt(share * (1 - share) / samples)
    return accuracy < chance + min(max(5.0, 3 * standard_error), (100 - chance) / 2)


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)
