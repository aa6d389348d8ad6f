"""Classifiers on any iterable of batches, as `lit_core.compress` trains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.data.labels import NO_LABEL
from lit_core.measuring.scores import Prediction, agreement, top1
from lit_core.networks.sections import SectionedNetwork
from lit_core.tasks.classification import evaluating
from lit_core.training.objectives import Batch
from lit_core.training.pruning import prune_by, spared_of
from lit_core.training.task import Scores
from lit_core.training.updaters import Updater, distillation_updater
from lit_spec import Hyperparameters, Phase, Schedule

Batches = Iterable[Any]
"""Batches `(x, y)` or `x`. x (B, …) is the network's input, or a tuple of several inputs; y (B,) are class numbers, -1
for a sample without a label."""


class IterableTask:
    """Trains a classifier's student on batches in the order in which the data gives them."""

    selection = "accuracy"

    def __init__(
        self,
        hyperparameters: Hyperparameters,
        teacher: SectionedNetwork,
        student: SectionedNetwork,
        data: Batches,
        validation: Batches | None,
        steps: int,
        classes: int,
    ) -> None:
        self.hyperparameters, self.teacher, self.student = hyperparameters, teacher, student
        self.data, self.validation, self.classes = data, validation, classes
        self.device = next(teacher.network.parameters()).device
        self.samples = steps * hyperparameters.schedule.batch_size
        self.masks: dict[str, Tensor] = {}
        self._iterator: Iterator[Any] = iter(())

    def supersedes(self, phase: Phase) -> bool:  # noqa: ARG002
        return self.validation is None

    def updater(self, phase: Phase) -> Updater:
        return distillation_updater(self.hyperparameters, phase, self.teacher, self.student, self.masks)

    def prune(self, share: float) -> None:
        pruning = self.hyperparameters.pruning
        spared = spared_of(self.student, pruning, self.classes)
        self.masks = prune_by(self.student.network, share, pruning, spared)

    def batch(self, rows: Tensor, progress: float, augmentation: torch.Generator, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """The next batch of the data. `rows` is ignored: the data has its own order and augmentation."""
        try:
            inputs, labels = split_batch(next(self._iterator))
        except StopIteration:
            self._iterator = iter(self.data)
            inputs, labels = split_batch(next(self._iterator))
        given = tuple(x.to(self.device) for x in inputs)
        return Batch(given, labels.to(self.device), progress, generator)

    def score(self) -> Scores:
        if self.validation is None:
            return Scores(0.0, {})
        found = self.measure(self.student.network)
        teacher, student = found["teacher_accuracy"], found["student_accuracy"]
        agreed = found["agreement"] or 0.0
        metrics = {"agreement": agreed}
        if teacher is not None and student is not None:
            metrics |= {"teacher_accuracy": teacher, "student_accuracy": student}
        return Scores(agreed if student is None else student, metrics)

    @torch.no_grad()
    def measure(self, network: nn.Module) -> dict[str, float | None]:
        """Scores on `validation` in percent. The accuracies are None if no sample has a label."""
        taught, made, truth = [], [], []
        with evaluating(network):
            for inputs, labels in map(split_batch, self.validation or ()):
                given = tuple(x.to(self.device) for x in inputs)
                taught.append(self.teacher.network(*given).float().cpu())
                made.append(network(*given).float().cpu())
                truth.append(labels.cpu())
        logits, own, labels = torch.cat(taught), torch.cat(made), torch.cat(truth)
        known = labels != NO_LABEL
        labelled = bool(known.any())
        return {
            "agreement": agreement(own, logits),
            "teacher_accuracy": top1(Prediction(logits[known], labels[known])) if labelled else None,
            "student_accuracy": top1(Prediction(own[known], labels[known])) if labelled else None,
        }


@dataclass(frozen=True)
class FirstBatch:
    """The first batch of the data, and what one pass over the data showed."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    batches: int
    """Per epoch."""
    smallest_batch: int
    """Samples in the smallest batch of the pass."""


def repeatable(data: Batches, schedule: Schedule | None = None) -> Batches:
    """An iterator gives its batches only once, so they are stored; of an endless one as many as are needed."""
    if not isinstance(data, Iterator):
        return data
    steps = None if schedule is None else schedule.steps_per_epoch
    epochs = 0 if schedule is None else schedule.lit.epochs + schedule.fine_tune.epochs
    return list(islice(data, None if steps is None else steps * epochs))


def look_through(data: Batches, name: str, steps_per_epoch: int | None = None) -> FirstBatch:
    """One pass over the data, or only its first batch if it may be endless. Raises ValueError."""
    first: tuple[tuple[Tensor, ...], Tensor] | None = None
    sizes = []
    for batch in islice(data, None if steps_per_epoch is None else 1):
        inputs, labels = split_batch(batch)
        first = first or (inputs, labels)
        sizes.append(len(labels))
    if first is None or next(iter(data), None) is None:
        raise ValueError(f"{name} must give batches every time it is iterated over: use a list or a DataLoader")
    if min(sizes) == 0:
        raise ValueError(f"{name} has an empty batch: leave it out")
    return FirstBatch(*first, steps_per_epoch or len(sizes), min(sizes))


def split_batch(batch: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs and labels. Raises ValueError."""
    if isinstance(batch, Tensor):
        return (batch,), torch.full((len(batch),), NO_LABEL)
    if isinstance(batch, Sequence) and len(batch) == 2:
        x, y = batch
        inputs = (x,) if isinstance(x, Tensor) else tuple(x) if isinstance(x, Sequence) else ()
        if inputs and _have_equal_lengths([*inputs, y]) and y.ndim == 1 and not y.is_floating_point():
            return inputs, y.long()
    raise ValueError(
        "a batch must be x or (x, y), where y (B,) are integer class numbers and x is a tensor or a tuple of tensors"
    )


def _have_equal_lengths(parts: Sequence[Any]) -> bool:
    """Whether all are tensors of the same number of samples."""
    return all(isinstance(part, Tensor) and part.ndim > 0 for part in parts) and len({len(part) for part in parts}) == 1
