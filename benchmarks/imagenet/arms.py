"""What is compared: each arm makes a student of the teacher from the same few images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.practise import Candidate, Recipe, blocks_to_keep, endless, mimicking_student
from lit_core.compression import compress
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened

Kept = list[list[int]]


class Arm(StrEnum):
    LIT = "lit"
    """What `lit_core.compress` does by itself with few data; it chooses its own blocks."""
    PRACTISE = "practise"
    """It chooses its own blocks."""
    KD = "kd"
    """Distillation from the blocks that LIT chose, at each rate of KD_RATES."""
    UNTRAINED = "untrained"
    """The blocks that LIT chose, with the teacher's weights."""


LIT_SETTINGS: Mapping[str, Any] = {"preset": "few", "select": "recover"}
FROM_LITS_BLOCKS = (Arm.KD, Arm.UNTRAINED)
KD_RATES = (3e-5, 1e-4, 3e-4)
"""Of Adam."""


@dataclass(frozen=True)
class Student:
    network: nn.Module
    kept: Kept


def lit_student(
    teacher: SectionedNetwork, training: Iterable[Tensor], drop: int, seed: int, settings: Mapping[str, Any]
) -> Student:
    """`settings` are arguments of `compress` over those of LIT_SETTINGS."""
    depth = sum(map(len, teacher.sections)) - drop
    sections = [list(paths) for paths in teacher.layout.sections]
    # A copy, because the teacher is frozen.
    network = teacher.copy_of_network()
    made = compress(network, training, sections=sections, depth=depth, seed=seed, **{**LIT_SETTINGS, **settings})
    return Student(made.student, made.report["selection"]["kept"])


def practise_student(
    teacher: SectionedNetwork, training: Iterable[Tensor], drop: int, candidates: Sequence[Candidate], recipe: Recipe
) -> Student:
    kept = blocks_to_keep(teacher, candidates, drop)
    return Student(mimicking_student(teacher, kept, training, recipe), kept)


def untrained_student(teacher: SectionedNetwork, kept: Kept) -> Student:
    return Student(shortened(teacher, kept).network.eval(), kept)


def kd_student(
    teacher: SectionedNetwork, training: Iterable[Tensor], kept: Kept, rate: float, iterations: int
) -> Student:
    """Distillation at τ = 1, as many iterations as PRACTISE fine-tunes. BatchNorm keeps its statistics: with those of
    few images the student is far worse."""
    student = shortened(teacher, kept).network.eval()
    optimizer = torch.optim.Adam([parameter for parameter in student.parameters() if parameter.requires_grad], rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(int(0.4 * iterations), 1))
    batches = endless(training, student)
    for _ in range(iterations):
        inputs = next(batches)
        with torch.no_grad():
            taught = teacher.network(*inputs).softmax(dim=1)
        optimizer.zero_grad()
        F.cross_entropy(student(*inputs), taught).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return Student(student, kept)
