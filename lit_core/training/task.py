"""The seam between training and what is trained for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lit_core.data import Dataset
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.objectives import Batch
from lit_core.training.updaters import Program
from lit_spec import JobError, Phase, Split


class Refused(Exception):
    """The job can't be done with this teacher or these data; nothing was trained."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.detail)
        self.error = error


@dataclass(frozen=True)
class Scores:
    """What an epoch reached on the validation split."""

    value: float
    """Larger is better: the best epoch is the one that the job puts out."""
    metrics: dict[str, float]


class Trainable(Protocol):
    """What a training needs of its task."""

    student: SectionedNetwork
    samples: int
    """Of a pass over the training data."""
    selection: str
    """The metric that `Scores.value` is."""

    def supersedes(self, phase: Phase) -> bool:
        """Whether each epoch of the phase is chosen over all before it, whatever the scores."""

    def program(self, phase: Phase) -> Program: ...

    def prune(self, share: float) -> None:
        """Set so many of the student's weights to zero, from 0 to 1; programs keep them there from now on."""

    def batch(self, rows: Tensor, position: float, augmentation: torch.Generator, generator: torch.Generator) -> Batch:
        """The samples `rows` of the training split, augmented; rows beyond it are inputs of random noise."""

    def score(self) -> Scores:
        """The student on the validation split. Its mode is put back."""


class Task(Trainable, Protocol):
    """Teacher, student and data of one job."""

    teacher: SectionedNetwork
    dataset: Dataset

    def check(self) -> dict[str, Any]:
        """Measure the teacher before training; what to tell of it. Raises Refused."""

    def measure(self, network: nn.Module, split: Split) -> dict[str, Any]:
        """What the report says of a network on a split."""

    def compare(self, teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
        """From both networks' measures by split: what the report says of the two, `accepted` among it."""

    def parameters(self, network: SectionedNetwork) -> int:
        """Of the student, without those that are pruned."""

    def sample(self, batch: int) -> tuple[Tensor, ...]:
        """Inputs to count and time with, on the task's device."""

    def batches(self, split: Split) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """The network's inputs and the labels of a split, in the data's order and on the task's device."""

    def write_pictures(self, folder: Path) -> None:
        """Put into the output what is to be looked at, if anything is."""
