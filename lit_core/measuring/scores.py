"""Scores of a classifier's answers. Accuracies, shares and the calibration error are in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Binomial

from lit_spec import Output

LEAST_LOGIT = -1e30
CALIBRATION_BINS = 15
SIGNIFICANCE = 0.05
USEFUL = 0.1
"""The part of the way from chance to 100 % below which a classifier is useless."""


@dataclass(frozen=True)
class Prediction:
    """Logits (N, classes) and labels (N,), on the CPU."""

    logits: Tensor
    labels: Tensor


def class_logits(output: Tensor) -> Tensor:
    """Logits (B, classes) of a classifier's output.

    One output (B, 1) is the logit of class 1 against class 0, as a sigmoid takes it: of the logits 0 and z the softmax
    is 1 - sigmoid(z) and sigmoid(z).
    """
    return F.pad(output, (1, 0)) if output.ndim == 2 and output.shape[1] == 1 else output


def divergence(made: Tensor, taught: Tensor, output: Output) -> Tensor:
    """How far a network's outputs (B, classes) are from the teacher's: the mean KL divergence, in nats; for embeddings
    1 - cosine. 0 for equal outputs. A scalar."""
    if output == Output.EMBEDDING:
        return 1 - mean_cosine(made, taught)
    made, taught = bounded_below(made), bounded_below(taught)
    return F.kl_div(made.log_softmax(1), taught.log_softmax(1), log_target=True, reduction="batchmean")


def bounded_below(logits: Tensor) -> Tensor:
    """Logits without -inf, which some networks give to classes that they rule out: times a probability of 0 its
    logarithm is NaN, where nothing should be added."""
    return logits.clamp_min(LEAST_LOGIT)


def mean_cosine(embeddings: Tensor, others: Tensor) -> Tensor:
    """The mean cosine of two embeddings (B, D) of the same samples, a scalar."""
    return F.cosine_similarity(embeddings, others, dim=1).mean()


def top1(prediction: Prediction) -> float:
    return _percent(right_answers(prediction))


def top5(prediction: Prediction) -> float | None:
    """How often the label is among the five most probable classes; None for fewer than six classes."""
    if prediction.logits.shape[1] < 6:
        return None
    return _percent((prediction.logits.topk(5, dim=1).indices == prediction.labels[:, None]).any(dim=1))


def per_class(prediction: Prediction, classes: Sequence[str]) -> dict[str, float | None]:
    """Accuracy among the samples of each class; None for a class without any."""
    samples, right = (counts.tolist() for counts in _by_class(prediction, len(classes)))
    return {name: 100 * r / n if n else None for name, r, n in zip(classes, right, samples, strict=True)}


def _by_class(prediction: Prediction, classes: int) -> tuple[Tensor, Tensor]:
    """The samples of each class, and how many of them are right, both (classes,)."""
    right = prediction.labels[right_answers(prediction)]
    return torch.bincount(prediction.labels, minlength=classes), torch.bincount(right, minlength=classes)


def calibration_error(prediction: Prediction) -> float:
    """Expected calibration error (Guo et al., ICML 2017, eq. 3).

    The distance between the probability of the answer and the share of right answers, averaged over 15 equal bins of
    that probability, weighted by their numbers of samples.
    """
    # Without torchmetrics, which has the same: to import it takes longer than many a job's training.
    probabilities = prediction.logits.double().softmax(dim=1).amax(dim=1)
    bounds = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.float64)[1:-1]
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64)
    gaps.index_add_(0, torch.bucketize(probabilities, bounds), probabilities - right_answers(prediction).double())
    return 100 * float(gaps.abs().sum()) / len(probabilities)


def agreement(logits: Tensor, others: Tensor) -> float:
    """How often two networks give the same answer; NaN if one of them gives none, because its logits are NaN."""
    if bool(logits.isnan().any()) or bool(others.isnan().any()):
        return math.nan
    return _percent(logits.argmax(dim=1) == others.argmax(dim=1))


class Skill(Enum):
    """Whether a classifier knows more than chance."""

    ABOVE_CHANCE = "above"
    UNCERTAIN = "uncertain"
    AT_CHANCE = "at or below"


def chance(prediction: Prediction) -> float:
    """How often the answers would be right if they had nothing to do with the labels.

    It is the sum, over the classes, of the share of the labels times the share of the answers (Cohen, 1960).
    """
    classes = prediction.logits.shape[1]
    answers = torch.bincount(prediction.logits.argmax(dim=1), minlength=classes)
    labels = torch.bincount(prediction.labels, minlength=classes)
    return 100 * float((answers.double() @ labels.double()) / len(prediction.labels) ** 2)


def skill(prediction: Prediction) -> Skill:
    """Above chance, or at chance, where the samples show it with a certainty of 95 %.

    Above chance are answers that are right significantly more often than answers that have nothing to do with the
    labels, and than one in as many as there are classes (exact binomial test). At chance are answers whose accuracy, or
    whose accuracy by class, is significantly below a tenth of the way from guessing to 100 %. Neither threshold depends
    on how often each class occurs, because a good classifier measured on samples of almost only one class has answers
    of almost only one class too.
    """
    samples, right = len(prediction.labels), int(right_answers(prediction).sum())
    guessing = 1 / prediction.logits.shape[1]
    if _at_least(right, samples, max(guessing, chance(prediction) / 100)) < SIGNIFICANCE:
        return Skill.ABOVE_CHANCE
    # As many wrong answers, or more, from a classifier that is just useful.
    useless = _at_least(samples - right, samples, 1 - _useful(guessing)) < SIGNIFICANCE
    return Skill.AT_CHANCE if useless or _is_useless_by_class(prediction) else Skill.UNCERTAIN


def _useful(guessing: float) -> float:
    return guessing + USEFUL * (1 - guessing)


def _at_least(count: int, samples: int, probability: float) -> float:
    """The probability of so many successes or more.

    Not by scipy: its import takes 100 MB, and goes on for ever where a limit leaves less.
    """
    if count == 0 or probability >= 1:
        return 1.0
    counts = torch.arange(count, samples + 1, dtype=torch.float64)
    binomial = Binomial(samples, torch.tensor(probability, dtype=torch.float64), validate_args=False)
    return float(binomial.log_prob(counts).exp().sum())  # type: ignore[no-untyped-call]


def _is_useless_by_class(prediction: Prediction) -> bool:
    """Whether the mean accuracy of the classes that occur is significantly useless: always to answer the most frequent
    class is right only in that class. By Hoeffding's inequality, with the variance of each class's accuracy by its
    samples."""
    samples, right = _by_class(prediction, prediction.logits.shape[1])
    samples, right = samples[samples > 0].double(), right[samples > 0].double()
    classes = len(samples)
    if classes < 2:
        return False
    margin = math.sqrt(-math.log(SIGNIFICANCE) * float((1 / samples).sum()) / 2) / classes
    return float((right / samples).mean()) + margin < _useful(1 / classes)


def right_answers(prediction: Prediction) -> Tensor:
    """Whether each answer is right, (N,)."""
    return prediction.logits.argmax(dim=1) == prediction.labels


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)
