"""The student: the teacher with fewer blocks a section."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lit_core.networks.block_selection import select_blocks
from lit_core.networks.families import family_of
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.surgery import cut
from lit_spec import Architecture, Init, JobSpec, Method, Select


def build_student(
    teacher: SectionedNetwork, spec: JobSpec, kept: Sequence[Sequence[int]] | None = None
) -> SectionedNetwork:
    """The teacher's network with the blocks `kept` alone (None: evenly spaced), as its method begins with it.

    `inherit` keeps their weights and `random` leaves the sections as the family initialises them, by the seed. Stem and
    head are the teacher's, except for training from scratch with random weights. Method `prune` begins with the whole
    teacher.
    """
    if spec.method == Method.PRUNE:
        return copy_of(teacher)
    if kept is None:
        kept = select_blocks(teacher, spec.student.blocks, Select.EVEN, ()).kept
    student = shortened(teacher, kept)
    if spec.student.init == Init.INHERIT:
        return student
    architecture = student_architecture(spec, kept)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        fresh = family_of(architecture).build(architecture)
    if spec.method == Method.SCRATCH:
        student.network.load_state_dict(fresh.state_dict())
        return student
    for paths in student.layout.sections:
        for path in paths:
            student.network.get_submodule(path).load_state_dict(fresh.get_submodule(path).state_dict())
    return student


def copy_of(teacher: SectionedNetwork) -> SectionedNetwork:
    """With weights of its own, that can be trained."""
    return SectionedNetwork(teacher.copy_of_network(), teacher.layout)


def shortened(teacher: SectionedNetwork, kept: Sequence[Sequence[int]]) -> SectionedNetwork:
    """A copy of the teacher that has of each section the blocks at the places `kept`, weights and all."""
    network = teacher.copy_of_network()
    return SectionedNetwork(network, cut(network, teacher.layout, kept), kept)


def parameters_with(teacher: SectionedNetwork, kept: Sequence[Sequence[int]]) -> int:
    """How many parameters are left with the blocks at these places; those that blocks share count once."""
    gone = [
        f"{path}."
        for paths, places in zip(teacher.layout.sections, kept, strict=True)
        for place, path in enumerate(paths)
        if place not in places
    ]
    named = teacher.network.named_parameters(remove_duplicate=False)
    left = {id(one): one.numel() for name, one in named if not name.startswith(tuple(gone))}
    return sum(left.values())


def student_architecture(spec: JobSpec, kept: Sequence[Sequence[int]]) -> Architecture:
    """Of the network that the job puts out; pruning keeps the teacher's."""
    teacher = spec.teacher.architecture
    if spec.method == Method.PRUNE:
        return teacher
    network = teacher.network and teacher.network.model_copy(update={"kept": [list(places) for places in kept]})
    return teacher.model_copy(
        update={"depth": spec.student.depth, "blocks": list(spec.student.blocks), "network": network}
    )
