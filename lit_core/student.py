"""The student: the teacher with fewer blocks a section."""

from __future__ import annotations

import torch

from lit_core.families import family_of
from lit_core.sections import SectionedNetwork
from lit_core.spec import Architecture, Init, JobSpec, Method, Part


def inherited_blocks(teacher_blocks: int, student_blocks: int) -> list[int]:
    """Which of a teacher section's blocks the student's are copied from: the first and evenly spaced others."""
    return [i * teacher_blocks // student_blocks for i in range(student_blocks)]


def build_student(teacher: SectionedNetwork, spec: JobSpec) -> SectionedNetwork:
    """A network of the teacher's widths with the specification's blocks, as its method begins with it.

    `inherit` copies blocks from the teacher and `random` leaves the sections as the family initialises them, by the
    seed. Stem and head are the teacher's, except for training from scratch with random weights. Method `prune` begins
    with the whole teacher.
    """
    architecture = student_architecture(spec)
    family = family_of(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = family.build(architecture)
    student = SectionedNetwork(network, family.layout(architecture))
    if spec.method == Method.PRUNE:
        network.load_state_dict(teacher.network.state_dict())
        return student
    if spec.method != Method.SCRATCH or spec.student.init == Init.INHERIT:
        _copy_ends(teacher, student)
    if spec.student.init == Init.INHERIT:
        for source, target in zip(teacher.sections, student.sections, strict=True):
            for block, index in zip(target, inherited_blocks(len(source), len(target)), strict=True):
                block.load_state_dict(source[index].state_dict())
    return student


def student_architecture(spec: JobSpec) -> Architecture:
    """Of the network that the job puts out; pruning keeps the teacher's."""
    teacher = spec.teacher.architecture
    if spec.method == Method.PRUNE:
        return teacher
    return teacher.model_copy(update={"depth": spec.student.depth, "blocks": list(spec.student.blocks)})


def _copy_ends(source: SectionedNetwork, target: SectionedNetwork) -> None:
    for part in (Part.STEM, Part.HEAD):
        # Module paths after a shortened section may be others than the teacher's; their order is the same.
        for old, new in zip(source.part(part), target.part(part), strict=True):
            new.load_state_dict(old.state_dict())
