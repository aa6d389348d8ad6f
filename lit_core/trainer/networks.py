"""The teacher and the student of a job, where each process holds the whole teacher or only its part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from lit_core.networks.lazy_loading import shortened_from_file
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.sharding import build_sharded_teacher, is_sharded
from lit_core.networks.student import build_student, initialised
from lit_core.networks.teacher import build_teacher
from lit_core.training.group import Group
from lit_spec import JobSpec
from lit_spec.trainer.folder import TEACHER_FILE

T = TypeVar("T")


def load_teacher(spec: JobSpec, folder: Path, device: torch.device, group: Group) -> SectionedNetwork:
    """The frozen teacher from the job folder, on the device. Raises SpecError for one that can't be sharded."""
    architecture, path = spec.teacher.architecture, folder / TEACHER_FILE
    if spec.shard_teacher:
        return build_sharded_teacher(architecture, path, device, group.size)
    teacher = build_teacher(architecture, path)
    teacher.network.to(device)
    return teacher


def make_student(
    spec: JobSpec, folder: Path, teacher: SectionedNetwork, kept_blocks: Sequence[Sequence[int]], device: torch.device
) -> SectionedNetwork:
    """The student as the specification's method starts with it, on the device. What it has of a sharded teacher is read
    from the teacher's file."""
    if is_sharded(teacher):
        student = shortened_from_file(spec.teacher.architecture, folder / TEACHER_FILE, kept_blocks)
        student = initialised(student, spec, kept_blocks)
    else:
        student = build_student(teacher, spec, kept_blocks)
    student.network.to(device)
    return student


def found_with(teacher: SectionedNetwork, group: Group, compute: Callable[[], T]) -> T:
    """What `compute` finds with the teacher in the first process: plain values and tensors.

    Only the first one calls it, but all of them do for a sharded teacher, which runs only where all run it."""
    if not is_sharded(teacher):
        return group.from_first(compute)
    found = compute()
    return group.from_first(lambda: found)
