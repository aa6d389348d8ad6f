"""The student: the teacher with fewer blocks a section."""

from __future__ import annotations

import torch
from torch import nn

from lit_core.families import family_of
from lit_core.families.shapes import Layout
from lit_core.sections import SectionedNetwork
from lit_core.spec import Architecture, Init, StudentSpec


def inherited_blocks(teacher_blocks: int, student_blocks: int) -> list[int]:
    """Which of a teacher section's blocks the student's are copied from: the first and evenly spaced others."""
    return [i * teacher_blocks // student_blocks for i in range(student_blocks)]


def build_student(teacher: SectionedNetwork, architecture: Architecture, spec: StudentSpec, seed: int) -> nn.Module:
    """A network of the teacher's widths with `spec.blocks`; stem and head are the teacher's.

    `inherit` copies blocks from the teacher; `random` leaves the sections as the family initialises them, by `seed`.
    """
    family = family_of(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = family.build(student_architecture(architecture, spec))
    student = SectionedNetwork(network, teacher.layout)
    _copy_ends(teacher.network, network, teacher.layout)
    if spec.init == Init.INHERIT:
        for source, target in zip(teacher.sections, student.sections, strict=True):
            old, new = list(source.children()), list(target.children())
            for block, index in zip(new, inherited_blocks(len(old), len(new)), strict=True):
                block.load_state_dict(old[index].state_dict())
    return network


def student_architecture(teacher: Architecture, spec: StudentSpec) -> Architecture:
    return teacher.model_copy(update={"depth": spec.depth, "blocks": list(spec.blocks)})


def _copy_ends(source: nn.Module, target: nn.Module, layout: Layout) -> None:
    for path in (*layout.stem, *layout.head):
        target.get_submodule(path).load_state_dict(source.get_submodule(path).state_dict())
