"""The interface between the training and its task, such as classification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lit_core.data import Dataset
from lit_core.data.views import SampleViews, ViewPlan
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.batch import Batch
from lit_core.training.checkpoint import BestEpoch
from lit_core.training.outcome import Judgement
from lit_core.training.updaters import Updater
from lit_spec import Hyperparameters, JobError, Phase, Split
from lit_spec.trainer.report import CachePlan, Comparison, MeasuredAccuracy, Measures, TeacherCacheReport


class Refused(Exception):
    """The job can't be done with this teacher or this data; nothing was trained."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.detail)
        self.error = error


@dataclass(frozen=True)
class Scores:
    """The scores after an epoch on the validation split."""

    value: float
    """Larger is better. The epoch with the largest value gives the student."""
    metrics: dict[str, float]


class Trainable(Protocol):
    """What a training needs from its task."""

    student: SectionedNetwork
    samples: int
    """Number of samples in one pass over the training data."""
    views: ViewPlan
    """Which views of the samples are trained on."""
    cache_plan: CachePlan | None
    """What was decided about the teacher's cache; None if none was asked for."""
    selection: str
    """Name of the metric in `Scores.value`."""
    previews: bool
    """Whether `preview` looks at fewer samples than `score`."""
    held_out: bool
    """Whether scores and divergences are measured on samples that are not trained on."""

    def supersedes(self, phase: Phase) -> bool:
        """Whether each epoch of the phase is better than all before it, whatever the scores say."""

    def updater(self, phase: Phase, hyperparameters: Hyperparameters) -> Updater:
        """What changes the student in this phase. The hyperparameters may have another method or other learning rates
        than the task was made with."""

    def divergence(self) -> float:
        """How far the student's outputs are from the teacher's: the mean KL divergence in nats, for embeddings 1 -
        cosine. On validation samples, or on training samples where there are none. The student's mode is restored."""

    def prune(self, share: float) -> None:
        """Set this share (0 to 1) of the student's weights to zero; updaters made after this keep them at zero."""

    def batch(self, samples: SampleViews, progress: float, generator: torch.Generator) -> Batch:
        """Samples of the training split, augmented and mixed. Row numbers beyond the split give random noise."""

    def expect(self, rows: Tensor) -> None:
        """The rows of the next batch, which may be read meanwhile."""

    def rewind(self) -> None:
        """Let data that has its own order begin again; the next batch is the first of a pass."""

    def score(self) -> Scores:
        """Measure the student on the validation split. Its mode is restored."""

    def preview(self) -> Scores:
        """As `score`, before the first step: on no more samples than that may wait for, however many there are."""


class Task(Trainable, Protocol):
    """Teacher, student and data of one job."""

    teacher: SectionedNetwork
    dataset: Dataset

    def check(self) -> dict[str, Any]:
        """Measure the teacher before training, as `preview` measures the student, and return its scores. Raises
        Refused."""

    def teacher_accuracy(self) -> MeasuredAccuracy | None:
        """The teacher's accuracy on all samples; None without labels, and for a generator."""

    def measure(self, network: nn.Module, split: Split) -> dict[str, Any]:
        """Scores of a network on a split, by their names in the report's `Measures`; also `per_class`."""

    def compare(self, teacher: Measures, student: Measures) -> Comparison: ...

    def judge(self, teacher: Measures, student: Measures, untrained: Measures, best: BestEpoch) -> Judgement:
        """What the training made of the student. `best` is the epoch whose weights it has."""

    def parameters(self, network: SectionedNetwork) -> int:
        """The student's parameters, without those that are pruned."""

    def sample(self, batch: int) -> tuple[Tensor, ...]:
        """Inputs for counting FLOPs and measuring latency, on the task's device."""

    def batches(self, split: Split) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """The network's inputs and the labels of a split, in the data's order and on the task's device."""

    def teacher_cache(self) -> TeacherCacheReport | None:
        """What became of the teacher's cache; None if none was asked for."""

    def write_pictures(self, folder: Path) -> None:
        """Write pictures of the results into the output, if the task has any."""
