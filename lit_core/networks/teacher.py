"""Reading a checkpoint file into a state dict and a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_core.measuring.memory import is_out_of_memory
from lit_core.networks.block_selection import first_stands_out
from lit_core.networks.catalogue import propose
from lit_core.networks.checkpoints.files import SAVE, TeacherError, read_checkpoint
from lit_core.networks.checkpoints.fitting import Candidate, Search, choose
from lit_core.networks.checkpoints.students import is_of, library_student, made_of, read_told, with_told_options
from lit_core.networks.checkpoints.wrappers import type_name
from lit_core.networks.families import Recognised, family_of
from lit_core.networks.families.library import as_shapes
from lit_core.networks.families.library_preprocessing import library_preprocessing
from lit_core.networks.families.shapes import listed
from lit_core.networks.inspected_costs import count_flops, input_shape, measure_latency
from lit_core.networks.parameters import parameter_counts
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.state_dicts import load_state
from lit_spec import Architecture, Inspection, LibraryRequest, SpecError, TeacherWeights
from lit_spec.networks.architecture import Task, TeacherFormat

__all__ = [
    "Teacher",
    "TeacherError",
    "build_network",
    "build_teacher",
    "inspect_teacher",
    "meta_network",
    "read_teacher",
]


@dataclass(frozen=True)
class Teacher:
    format: TeacherFormat
    state: dict[str, Tensor]
    recognised: Recognised
    unwrapped: Sequence[str] = ()
    """What was done to find the tensors in the file."""
    weights: TeacherWeights = TeacherWeights.RAW
    weights_choices: Sequence[TeacherWeights] = (TeacherWeights.RAW,)
    """Which weights the file has."""


def read_teacher(path: Path, request: LibraryRequest | None = None, weights: TeacherWeights | None = None) -> Teacher:
    """Read a safetensors or `.pt` file, or a student that LIT has made: its file, or the archive of its output.

    `request` names a library's network, if it is one. The file of a student says that itself.
    `weights` says which to take of a file that has raw and averaged ones. None: raw, or averaged where there are no
    others. Raises TeacherError, also where the file has no such weights.
    """
    checkpoint = read_checkpoint(path)
    loaded = checkpoint.content
    told = None if checkpoint.told is None else read_told(checkpoint.told)
    # A request overrides what the file says.
    is_student = told is not None and (request is None or is_of(request, told))
    student = library_student(told) if told is not None and is_student else None
    try:
        found = Search(loaded, None if student is not None else request, student)
    except SpecError as failure:
        raise TeacherError(failure.message, failure.field) from failure
    if not found.fits:
        said = _refusal(loaded, found, request)
        if told is not None and not is_student:
            said += f"; its file says that it is a {made_of(told)}: leave the architecture out to use that"
        raise TeacherError(said, "teacher" if found.failure is None else "architecture") from found.failure
    choice = choose(found.fits, weights)
    recognised, state = choice.fit.recognised, choice.fit.candidate.tensors
    steps = [*checkpoint.steps, *choice.steps]
    if told is not None and is_student:
        recognised = with_told_options(recognised, told)
        # A file may say anything.
        if told.family == recognised.architecture.family:
            steps.append(f"its file says that it is a {made_of(told)}")
    _check_tensors(state)
    _check_outputs(recognised.architecture)
    return Teacher(
        checkpoint.format, _as_in_network(state, recognised), recognised, steps, choice.weights, choice.choices
    )


def _check_outputs(architecture: Architecture) -> None:
    if architecture.task == Task.CLASSIFICATION and architecture.classes == 1:
        raise TeacherError(
            "the teacher has one output, as a binary classifier with a sigmoid has, but it needs one for each class: "
            "put a row of zeros before the weight and the bias of its last layer, which changes no probability, or "
            "call lit_core.compress, which takes one output"
        )


def _refusal(loaded: Any, found: Search, request: LibraryRequest | None) -> str:
    """Why nothing in the file fits the requested network or a family, and which networks it fits."""
    if found.failure is None or found.nearest is None:
        return _without_tensors(loaded)
    failure, nearest = found.failure, found.nearest
    proposed = _proposed(found.tried, request)
    if proposed is not None:
        return f"this checkpoint {failure}; it {proposed}" if request else f"this checkpoint {proposed}"
    said = f"this checkpoint {failure}"
    # An entry that is no tensor, but whose name is one that the network has.
    if others := [
        f"{name} is of type {kind}, not a tensor" for name, kind in nearest.place.others.items() if "." in name
    ]:
        said += f"; {listed(others)}"
    return f"{said}; {failure.advice}" if failure.advice else said


def _without_tensors(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        if not loaded:
            return "the state dict is empty: save model.state_dict()"
        held = listed([f"{key} is of type {type_name(value)}" for key, value in loaded.items()])
        return f"the file holds no tensors, and code is never run from an upload: {held}. {SAVE.capitalize()}"
    return f"the file holds a {type_name(loaded)}, not a state dict, and code is never run from an upload: {SAVE}"


def _proposed(tried: Sequence[Candidate], request: LibraryRequest | None) -> str | None:
    """Which of the libraries' networks the first of the candidates fits that fits any, apart from the requested one."""
    asked = request and (request.library, request.name)
    for candidate in tried:
        fitting = [found for found in propose(candidate.shapes) if (found.library, found.name) != asked]
        if fitting:
            names = listed([f"{request.library.value}/{request.name}" for request in fitting])
            which = "this as architecture" if len(fitting) == 1 else "the one that it is as architecture"
            return f"has the tensors of {names}: give {which}"
    return None


def inspect_teacher(teacher: Teacher) -> Inspection:
    architecture = teacher.recognised.architecture
    family = teacher.recognised.family
    network = SectionedNetwork(meta_network(architecture), family.layout(architecture))
    counts = parameter_counts(network.network, network.layout.sections)
    students = family.students(architecture)
    # Where there are no students, nobody asks what they cost.
    flops = count_flops(architecture, network) if students else None
    latency = measure_latency(architecture, counts.total, flops)
    measured = None if latency is None else latency.nanoseconds
    return Inspection(
        format=teacher.format,
        unwrapped=list(teacher.unwrapped),
        weights=teacher.weights,
        weights_choices=list(teacher.weights_choices),
        architecture=architecture,
        parameters=counts.total,
        students=[counts.student(depth, blocks, flops, measured) for depth, blocks in students],
        parameter_counts=counts,
        first_blocks_stay=[first_stands_out(section) for section in network.sections],
        input_shape=None if flops is None else input_shape(architecture),
        flops=flops,
        latency=latency,
        preprocessing=library_preprocessing(architecture, network.network),
    )


def build_teacher(architecture: Architecture, path: Path) -> SectionedNetwork:
    """The frozen teacher from an inspected safetensors file."""
    teacher = SectionedNetwork(build_network(architecture, path), family_of(architecture).layout(architecture))
    if architecture.network is not None:
        teacher.probe_size = architecture.network.size
    teacher.freeze()
    return teacher


def build_network(architecture: Architecture, path: Path) -> nn.Module:
    """A network from an inspected safetensors file."""
    network = family_of(architecture).build(architecture)
    load_state(network, load_file(path))
    return network


def _check_tensors(state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if value.is_complex():
            raise TeacherError(f"{name} is complex: only real weights are accepted")


def _as_in_network(state: Mapping[str, Tensor], recognised: Recognised) -> dict[str, Tensor]:
    """In the network's order and types, with BatchNorm's step counters, which old checkpoints do not have."""
    found = {}
    for name, expected in meta_network(recognised.architecture).state_dict().items():
        given = state.get(name)
        if given is None:
            found[name] = torch.zeros(expected.shape, dtype=expected.dtype)
            continue
        if expected.is_floating_point() and not given.is_floating_point():
            raise TeacherError(
                f"{name} is of type {given.dtype}, but the network has floating-point numbers there: give the weights "
                "from before they were quantised or converted"
            )
        wanted = torch.float32 if expected.is_floating_point() else expected.dtype
        found[name] = given.to(wanted).contiguous().clone()
        if not torch.isfinite(found[name]).all():
            raise TeacherError(
                f"{name} has values that are not finite in float32: give a checkpoint from before the training diverged"
            )
    return found


@torch.no_grad()
def check_outputs_are_finite(teacher: Teacher) -> None:
    """Raises TeacherError for a network that can't run, or whose outputs are not finite even on an input of zeros."""
    architecture = teacher.recognised.architecture
    network = teacher.recognised.family.build(architecture)
    load_state(network, teacher.state)
    try:
        output = network.eval()(*(torch.zeros_like(x) for x in teacher.recognised.family.sample(architecture)))
    except RuntimeError as failure:
        if is_out_of_memory(failure):
            raise
        reason = str(failure).partition("\n")[0]
        raise TeacherError(
            f"the network that this checkpoint describes can't run: {reason}. If it is a student's file, its blocks "
            "must fit each other: give the file as LIT wrote it"
        ) from failure
    outputs = output if isinstance(output, tuple) else (output,)
    if not all(bool(torch.isfinite(one).all()) for one in outputs):
        others = [weights.value for weights in teacher.weights_choices if weights != teacher.weights]
        instead = f"give {others[0]} as teacher_weights, which the file has too, or an" if others else "give an"
        raise TeacherError(
            "the network's outputs on an input of zeros are not finite: its weights are damaged, or overflow in "
            f"float32; {instead} earlier checkpoint",
            "teacher_weights" if others else "teacher",
        )


def meta_network(architecture: Architecture) -> nn.Module:
    """The network's names and shapes, without memory if possible."""
    return as_shapes(lambda: family_of(architecture).build(architecture))
