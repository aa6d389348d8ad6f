"""Scores of a classifier's answers. Accuracies, shares and the calibration error are in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Prediction:
    """Logits (N, classes) and labels (N,), on the CPU."""

    logits: Tensor
    labels: Tensor


def top1(prediction: Prediction) -> float:
    return _percent(_right(prediction))


def top5(prediction: Prediction) -> float | None:
    """How often the label is among the five most probable classes; None for fewer than six classes."""
    if prediction.logits.shape[1] < 6:
        return None
    return _percent((prediction.logits.topk(5, dim=1).indices == prediction.labels[:, None]).any(dim=1))


def per_class(prediction: Prediction, classes: Sequence[str]) -> dict[str, float | None]:
    """Accuracy among the samples of each class; None for a class without any."""
    samples = torch.bincount(prediction.labels, minlength=len(classes)).tolist()
    right = torch.bincount(prediction.labels[_right(prediction)], minlength=len(classes)).tolist()
    return {name: 100 * r / n if n else None for name, r, n in zip(classes, right, samples, strict=True)}


def calibration_error(prediction: Prediction) -> float:
    """Expected calibration error (Guo et al., ICML 2017, eq. 3).

    The distance between the probability of the answer and the share of right answers, averaged over 15 equal bins of
    that probability, weighted by their numbers of samples.
    """
    # Imported here because it is slow to import.
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities, classes = prediction.logits.softmax(dim=1), prediction.logits.shape[1]
    # Without its checks, because they refuse a teacher with a single class.
    error = multiclass_calibration_error(
        probabilities, prediction.labels, classes, n_bins=CALIBRATION_BINS, validate_args=False
    )
    return 100 * float(error)


def agreement(logits: Tensor, others: Tensor) -> float:
    """How often two networks give the same answer."""
    return _percent(logits.argmax(dim=1) == others.argmax(dim=1))


def near_chance(accuracy: float, chance: float, samples: int) -> bool:
    """Whether an accuracy is not above chance by 5 points and three standard errors: such a teacher is useless.

    If chance leaves little room to 100 %, half of that room is enough.
    """
    share = chance / 100
    standard_error = 100 * math.sqrt(share * (1 - share) / samples)
    return accuracy < chance + min(max(5.0, 3 * standard_error), (100 - chance) / 2)


def _right(prediction: Prediction) -> Tensor:
    return prediction.logits.argmax(dim=1) == prediction.labels


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)
