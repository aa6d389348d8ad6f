"""Which architecture a student of any torch module has, if it is one that `build` can rebuild."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lit_core.networks.catalogue import propose
from lit_core.networks.families import family_of, recognise
from lit_core.networks.families.library import identify
from lit_core.networks.families.shapes import Shapes, Unrecognised
from lit_core.networks.state_dicts import load_state
from lit_core.networks.student import shallow_architecture
from lit_spec import Architecture, SpecError

LARGEST_DIFFERENCE = 1e-5
"""Of outputs, relative to the largest output, or absolute if that is below 1."""


def shapes_of(network: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def recognised_student(
    student: nn.Module,
    inputs: tuple[Tensor, ...],
    teacher: Shapes,
    sections: Sequence[Sequence[str]],
    kept_blocks: Sequence[Sequence[int]],
    known: Architecture | None,
) -> Architecture | None:
    """The architecture of which a network with the student's tensors computes what the student does; None if none does.

    `sections` are the module paths of the teacher's blocks, and `kept_blocks` the student's. `known` is the teacher's
    architecture, if that is known. `inputs` are examples on the student's device.
    """
    for architecture in _candidates(student, teacher, sections, kept_blocks, known):
        if _computes_the_same(architecture, student, inputs):
            return architecture
    return None


def _candidates(
    student: nn.Module,
    teacher: Shapes,
    sections: Sequence[Sequence[str]],
    kept_blocks: Sequence[Sequence[int]],
    known: Architecture | None,
) -> Iterator[Architecture]:
    for whole in _whole(teacher, known):
        layout = family_of(whole).layout(whole)
        if [list(paths) for paths in layout.sections] == [list(paths) for paths in sections]:
            yield shallow_architecture(whole, kept_blocks)
    try:
        yield recognise(shapes_of(student)).architecture
    except Unrecognised:
        return


def _whole(teacher: Shapes, known: Architecture | None) -> Iterator[Architecture]:
    if known is not None:
        yield known
        return
    for request in propose(teacher):
        try:
            yield identify(request, teacher)
        except (Unrecognised, SpecError):
            continue


@torch.no_grad()
def _computes_the_same(architecture: Architecture, student: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    with torch.random.fork_rng(devices=[]):
        again = family_of(architecture).build(architecture)
    try:
        load_state(again, student.state_dict())
    except RuntimeError:
        return False
    wanted = student(*inputs)
    found = again.to(wanted.device).eval()(*inputs)
    return bool((found - wanted).abs().max() <= LARGEST_DIFFERENCE * max(1.0, float(wanted.abs().max())))
