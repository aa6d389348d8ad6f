"""The student: the teacher with fewer blocks per section."""

from __future__ import annotations

from collections.abc import Sequence

from lit_core.networks.families import family_of
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.surgery import cut, remove_blocks
from lit_core.seeding import seeded
from lit_spec import Architecture, Init, JobSpec, LibraryNetwork, Method
from lit_spec.networks.students import depth_of, evenly


def build_student(
    teacher: SectionedNetwork, spec: JobSpec, kept_blocks: Sequence[Sequence[int]] | None = None
) -> SectionedNetwork:
    """The student as the specification's method starts with it. `kept_blocks` None: evenly spaced.

    Method `prune` starts with the whole teacher.
    """
    if spec.method == Method.PRUNE:
        return copy_of(teacher)
    if kept_blocks is None:
        whole = [len(section) for section in teacher.sections]
        kept_blocks = [evenly(count, wanted) for count, wanted in zip(whole, spec.student.blocks or [], strict=True)]
    return initialised(shortened(teacher, kept_blocks), spec, kept_blocks)


def initialised(student: SectionedNetwork, spec: JobSpec, kept_blocks: Sequence[Sequence[int]]) -> SectionedNetwork:
    """A student that has the teacher's weights, with those that its method starts with.

    With `inherit` the blocks keep the teacher's weights. With `random` the family initialises the sections, with the
    job's seed. Stem and head are the teacher's, except for method `scratch` with random weights.
    """
    if spec.student.init == Init.INHERIT:
        return student
    architecture = student_architecture(spec, kept_blocks)
    with seeded(spec.seed):
        fresh = family_of(architecture).build(architecture)
    if spec.method == Method.SCRATCH:
        student.network.load_state_dict(fresh.state_dict())
        return student
    for paths in student.layout.sections:
        for path in paths:
            student.network.get_submodule(path).load_state_dict(fresh.get_submodule(path).state_dict())
    return student


def copy_of(teacher: SectionedNetwork) -> SectionedNetwork:
    """A trainable copy with its own weights."""
    return SectionedNetwork(teacher.copy_of_network(), teacher.layout)


def shortened(teacher: SectionedNetwork, kept_blocks: Sequence[Sequence[int]]) -> SectionedNetwork:
    """A copy of the teacher that has only these blocks of each section, with their weights."""
    network = teacher.copy_of_network()
    return SectionedNetwork(network, cut(network, teacher.layout, kept_blocks), kept_blocks)


def view_of(teacher: SectionedNetwork, kept_blocks: Sequence[Sequence[int]]) -> SectionedNetwork:
    """As `shortened`, but with the teacher's own blocks: to see what such a student puts out in eval mode, not to train
    it."""
    network = teacher.view_of_network()
    return SectionedNetwork(network, remove_blocks(network, teacher.layout, kept_blocks), kept_blocks)


def student_architecture(spec: JobSpec, kept_blocks: Sequence[Sequence[int]]) -> Architecture:
    """The architecture of the network that the job produces. Pruning keeps the teacher's."""
    teacher = spec.teacher.architecture
    return teacher if spec.method == Method.PRUNE else shallow_architecture(teacher, kept_blocks)


def shallow_architecture(teacher: Architecture, kept_blocks: Sequence[Sequence[int]]) -> Architecture:
    """The architecture of the teacher with only these blocks of each section."""
    blocks = [len(kept) for kept in kept_blocks]
    network = teacher.network and teacher.network.model_copy(update={"kept": _kept(teacher.network, kept_blocks)})
    depth = depth_of(blocks, family_of(teacher).students(teacher))
    return teacher.model_copy(update={"depth": depth, "blocks": blocks, "network": network})


def _kept(teacher: LibraryNetwork, kept_blocks: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of the library's blocks, of which a teacher that is itself a student has only some."""
    if teacher.kept is None:
        return [list(kept) for kept in kept_blocks]
    return [[own[place] for place in kept] for own, kept in zip(teacher.kept, kept_blocks, strict=True)]
