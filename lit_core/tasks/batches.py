"""Classifiers on any iterable of batches, as `lit_core.compress` trains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.data.labels import NO_LABEL
from lit_core.data.views import SampleViews, ViewPlan
from lit_core.measuring.scores import Prediction, agreement, class_logits, divergence, mean_cosine, top1
from lit_core.networks.sections import SectionedNetwork
from lit_core.tasks.classification import evaluating
from lit_core.training.batch import Batch
from lit_core.training.checkpoint import BestEpoch
from lit_core.training.mixing import mixed
from lit_core.training.outcome import Judgement, Score, judged_at_chance, judged_by
from lit_core.training.pruning import prune_by, spared_of
from lit_core.training.task import Scores
from lit_core.training.updaters import Updater, distillation_updater
from lit_spec import Hyperparameters, Output, Phase, Schedule, Split
from lit_spec.trainer.report import CachePlan

Batches = Iterable[Any]
"""Batches `(x, y)`, `(x,)` or `x`. x (B, …) is the network's input; in `(x, y)` and `(x,)` it may also be a tuple of
several inputs. y (B,) are class numbers, -1 for a sample without a label."""


DIVERGENCE_BATCHES = 16
"""Training batches that are looked at where there is no validation data."""


class IterableTask:
    """Trains a classifier's student on batches in the order in which the data gives them."""

    def __init__(
        self,
        hyperparameters: Hyperparameters,
        teacher: SectionedNetwork,
        student: SectionedNetwork,
        data: Batches,
        validation: Batches | None,
        steps: int,
        outputs: int,
    ) -> None:
        """`outputs` is the number of the teacher's outputs. One logit is that of a binary classifier."""
        self.hyperparameters, self.teacher, self.student = hyperparameters, teacher, student
        self.data, self.validation, self.outputs = data, validation, outputs
        self.device = next(teacher.network.parameters()).device
        self.samples = steps * hyperparameters.schedule.batch_size
        self.views = ViewPlan(hyperparameters.seed)
        self.cache_plan: CachePlan | None = None
        self.output = hyperparameters.output
        self.selection = "cosine" if self.output == Output.EMBEDDING else "accuracy"
        self.held_out, self.previews = validation is not None, False
        self.masks: dict[str, Tensor] = {}
        self._iterator: Iterator[Any] = iter(())

    def supersedes(self, phase: Phase) -> bool:  # noqa: ARG002
        return not self.held_out

    def updater(self, phase: Phase, hyperparameters: Hyperparameters) -> Updater:
        return distillation_updater(hyperparameters, phase, self.teacher, self.student, self.masks)

    def prune(self, share: float) -> None:
        pruning = self.hyperparameters.pruning
        spared = spared_of(self.student, pruning, self.outputs)
        self.masks = prune_by(self.student.network, share, pruning, spared)

    def batch(self, samples: SampleViews, progress: float, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """The next batch of the data, mixed. `samples` is ignored: the data has its own order and augmentation."""
        try:
            inputs, labels = split_batch(next(self._iterator))
        except StopIteration:
            self._iterator = iter(self.data)
            inputs, labels = split_batch(next(self._iterator))
        self._check_labels(labels, "data")
        given = tuple(x.to(self.device) for x in inputs)
        batch = Batch(given, labels.to(self.device), progress, generator)
        return mixed(batch, self.hyperparameters.mixing)

    def expect(self, rows: Tensor) -> None:
        """The data reads ahead itself, if it does."""

    def rewind(self) -> None:
        self._iterator = iter(())

    def preview(self) -> Scores:
        return self.score()

    def score(self) -> Scores:
        if self.validation is None:
            return Scores(0.0, {})
        found = self.measure(self.student.network)
        if self.output == Output.EMBEDDING:
            cosine = found["cosine"] or 0.0
            return Scores(cosine, {"cosine": cosine})
        teacher, student = found["teacher_accuracy"], found["student_accuracy"]
        agreed = found["agreement"] or 0.0
        metrics = {"agreement": agreed}
        if teacher is not None and student is not None:
            metrics |= {"teacher_accuracy": teacher, "student_accuracy": student}
        return Scores(agreed if student is None else student, metrics)

    def divergence(self) -> float:
        found = _answers(
            self.teacher.network, self.student.network, self._compared, self.outputs, self.output, self.device
        )
        return float(divergence(found.made, found.taught, self.output))

    @cached_property
    def _compared(self) -> Batches:
        """Batches on which students are compared. Training data may have another order in each pass, so it is kept."""
        return list(islice(self.data, DIVERGENCE_BATCHES)) if self.validation is None else self.validation

    def measure(self, network: nn.Module) -> dict[str, float | None]:
        """Scores on `validation`, in percent; of embeddings the mean cosine. The accuracies are None if no sample has a
        label."""
        return self._answers(network).scores()

    def judge(self, trained: nn.Module, untrained: Mapping[str, float | None], best: BestEpoch) -> Judgement:
        """By the accuracy on `validation` or, without labels there, by the agreement with the teacher; for embeddings
        by the cosine."""
        answers = self._answers(trained)
        after = answers.scores()
        if self.output == Output.EMBEDDING:
            cosine = Score("cosine", "", Split.VALIDATION, 1.0, after["cosine"] or 0.0, untrained["cosine"] or 0.0)
            return judged_by(cosine, best)
        name, metric, taught, split = "student_accuracy", "accuracy", after["teacher_accuracy"], Split.VALIDATION
        if taught is None:
            name, metric, taught = "agreement", "agreement", 100.0
        at_chance = judged_at_chance(answers.to_judge(), metric, split)
        score = Score(metric, "%", split, taught, after[name] or 0.0, untrained[name] or 0.0)
        return at_chance or judged_by(score, best)

    def _answers(self, network: nn.Module) -> _Answers:
        return _answers(self.teacher.network, network, self.validation or (), self.outputs, self.output, self.device)

    def _check_labels(self, labels: Tensor, name: str) -> None:
        if self.output == Output.LOGITS:
            check_labels(labels, self.outputs, name)


@dataclass(frozen=True)
class _Answers:
    """Logits of the teacher and of another network (N, classes), and the labels (N,), on the CPU."""

    taught: Tensor
    made: Tensor
    labels: Tensor
    output: Output

    def scores(self) -> dict[str, float | None]:
        if self.output == Output.EMBEDDING:
            return {"cosine": float(mean_cosine(self.made, self.taught))}
        known = self.labels != NO_LABEL
        labelled = bool(known.any())
        return {
            "agreement": agreement(self.made, self.taught),
            "teacher_accuracy": top1(Prediction(self.taught[known], self.labels[known])) if labelled else None,
            "student_accuracy": top1(Prediction(self.made[known], self.labels[known])) if labelled else None,
        }

    def to_judge(self) -> Prediction:
        """The network's answers to the labelled samples or, if there are none, with the teacher's answers as labels."""
        known = self.labels != NO_LABEL
        if bool(known.any()):
            return Prediction(self.made[known], self.labels[known])
        return Prediction(self.made, self.taught.argmax(dim=1))


@torch.no_grad()
def _answers(
    teacher: nn.Module, network: nn.Module, validation: Batches, outputs: int, output: Output, device: torch.device
) -> _Answers:
    taught, made, truth = [], [], []
    with evaluating(network):
        for inputs, labels in map(split_batch, validation):
            if output == Output.LOGITS:
                check_labels(labels, outputs, "validation")
            given = tuple(x.to(device) for x in inputs)
            taught.append(class_logits(teacher(*given)).float().cpu())
            made.append(class_logits(network(*given)).float().cpu())
            truth.append(labels.cpu())
    return _Answers(torch.cat(taught), torch.cat(made), torch.cat(truth), output)


def validation_drop(teacher: nn.Module, network: nn.Module, validation: Batches, outputs: int, output: Output) -> float:
    """Points of accuracy that the network loses against the teacher; without labels, points of agreement; for
    embeddings 100 times 1 - cosine."""
    device = next(teacher.parameters()).device
    scores = _answers(teacher, network, validation, outputs, output, device).scores()
    if output == Output.EMBEDDING:
        return 100 * (1 - (scores["cosine"] or 0.0))
    before, after = scores["teacher_accuracy"], scores["student_accuracy"]
    if before is not None and after is not None:
        return before - after
    return 100 - (scores["agreement"] or 0.0)


@dataclass(frozen=True)
class FirstBatch:
    """The first batch of the data, and what one pass over the data showed."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    batches: int
    """Per epoch."""
    smallest_batch: int
    """Samples in the smallest batch of the pass."""
    extreme_labels: Tensor
    """The smallest and the largest label of the pass."""


def repeatable(data: Batches, schedule: Schedule | None = None) -> Batches:
    """An iterator gives its batches only once, so they are stored; of an endless one as many as are needed."""
    return list(islice(data, _most_batches(schedule))) if isinstance(data, Iterator) else data


def look_through(data: Batches, name: str, schedule: Schedule | None = None) -> FirstBatch:
    """One pass over the data. With `steps_per_epoch`, only the batches that a training takes, or only the first one if
    the data may be endless, because it has no length. Raises ValueError."""
    most = _most_batches(schedule)
    first: tuple[tuple[Tensor, ...], Tensor] | None = None
    sizes, extremes = [], []
    for batch in islice(data, most if most is None or _has_length(data) else 1):
        inputs, labels = split_batch(batch)
        if len(labels) == 0:
            raise ValueError(f"{name} has an empty batch: leave it out")
        first = first or (inputs, labels)
        sizes.append(len(labels))
        extremes += [labels.min().cpu(), labels.max().cpu()]
    if first is None or next(iter(data), None) is None:
        raise ValueError(f"{name} must give batches every time it is iterated over: use a list or a DataLoader")
    steps = None if schedule is None else schedule.steps_per_epoch
    return FirstBatch(*first, steps or len(sizes), min(sizes), torch.stack([min(extremes), max(extremes)]))


def _most_batches(schedule: Schedule | None) -> int | None:
    """How many batches a training takes at most; None: all that there are."""
    if schedule is None or schedule.steps_per_epoch is None:
        return None
    return schedule.steps_per_epoch * (schedule.lit.epochs + schedule.fine_tune.epochs)


def _has_length(data: Batches) -> bool:
    try:
        len(data)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def check_labels(labels: Tensor, outputs: int, name: str) -> None:
    """Raises ValueError for labels that are not classes of a network with so many outputs."""
    classes = max(outputs, 2)
    least, most = int(labels.min()), int(labels.max())
    if least < NO_LABEL or most >= classes:
        raise ValueError(
            f"{name} has the label {least if least < NO_LABEL else most}, but the model has {classes} classes: give "
            f"labels of 0 to {classes - 1}, or {NO_LABEL} for a sample without a label"
        )


def split_batch(batch: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs and labels. Raises ValueError."""
    if isinstance(batch, Tensor) and batch.ndim > 0:
        return (batch,), _no_labels(batch)
    if isinstance(batch, Sequence) and len(batch) in (1, 2):
        inputs = _inputs(batch[0])
        if len(batch) == 1 and inputs and _have_equal_lengths(inputs):
            return inputs, _no_labels(inputs[0])
        if len(batch) == 2 and inputs and _have_equal_lengths([*inputs, batch[1]]) and _are_class_numbers(batch[1]):
            return inputs, batch[1].long()
    raise ValueError(
        "a batch must be x, (x,) or (x, y), where y (B,) are integer class numbers and x is a tensor or a tuple of "
        "tensors"
    )


def _inputs(x: Any) -> tuple[Any, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x) if isinstance(x, Sequence) else ()


def _no_labels(x: Tensor) -> Tensor:
    return torch.full((len(x),), NO_LABEL)


def _are_class_numbers(y: Tensor) -> bool:
    return y.ndim == 1 and not y.is_floating_point() and not y.is_complex()


def _have_equal_lengths(parts: Sequence[Any]) -> bool:
    """Whether all are tensors of the same number of samples."""
    return all(isinstance(part, Tensor) and part.ndim > 0 for part in parts) and len({len(part) for part in parts}) == 1
