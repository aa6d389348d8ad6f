"""Reading a checkpoint file into a state dict and a network."""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_core.networks.block_selection import first_stands_out
from lit_core.networks.catalogue import propose
from lit_core.networks.families import Recognised, Shapes, Unrecognised, family_of, recognise
from lit_core.networks.families.library import as_shapes
from lit_core.networks.families.shapes import NOT_AT_ALL
from lit_core.networks.inspected_costs import count_flops, input_shape, measure_latency
from lit_core.networks.parameters import parameter_counts
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.state_dicts import load_state
from lit_core.zip_directory import directory_bytes
from lit_spec import Architecture, Inspection, LibraryRequest, SpecError
from lit_spec.networks.architecture import Task, TeacherFormat
from lit_spec.networks.teacher_files import (
    DIRECTORY_BYTES,
    HEADER_BYTES,
    MEMBERS,
    PICKLE_BYTES,
    TENSORS,
    too_long_header,
    too_many_tensors,
)

WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
PREFIXES = re.compile(r"(?:module\.|_orig_mod\.)*")
SAVE = "save model.state_dict() instead"


class TeacherError(Exception):
    """The file is not a readable teacher. The message says what to do."""

    def __init__(self, message: str, field: str = "teacher") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Teacher:
    format: TeacherFormat
    state: dict[str, Tensor]
    recognised: Recognised


def read_teacher(path: Path, request: LibraryRequest | None = None) -> Teacher:
    """Read a safetensors or `.pt` file; `request` names a library's network, if it is one. Raises TeacherError."""
    file_format = _format(path)
    loaded = _load_safetensors(path) if file_format == TeacherFormat.SAFETENSORS else _load_pt(path)
    state = _with_plain_names(_unwrapped(loaded))
    _check_tensors(state)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        recognised = recognise(shapes, request)
    except Unrecognised as failure:
        raise TeacherError(f"this checkpoint {_refusal(failure, shapes, request)}") from failure
    except SpecError as failure:
        raise TeacherError(failure.message, failure.field) from failure
    _check_outputs(recognised.architecture)
    state = {name: _as_float32(name, tensor) for name, tensor in state.items()}
    return Teacher(file_format, _completed(state, recognised), recognised)


def _check_outputs(architecture: Architecture) -> None:
    if architecture.task == Task.CLASSIFICATION and architecture.classes == 1:
        raise TeacherError(
            "the teacher has one output, as a binary classifier with a sigmoid has, but it needs one for each class: "
            "put a row of zeros before the weight and the bias of its last layer, which changes no probability, or "
            "call lit_core.compress, which takes one output"
        )


def _refusal(failure: Unrecognised, shapes: Shapes, request: LibraryRequest | None) -> str:
    """Why the tensors don't fit the requested network, and which networks they fit."""
    proposed = _proposed(shapes, request)
    if request is None:
        return str(failure) if proposed is None else proposed
    if proposed is not None:
        return f"{failure}; it {proposed}"
    if failure.count == NOT_AT_ALL:
        return str(failure)
    return f"{failure}; what differs from the library's defaults (depth, widths, …) is for architecture.kwargs"


def _proposed(shapes: Shapes, request: LibraryRequest | None) -> str | None:
    """Which of the libraries' networks these tensors fit, apart from the requested one."""
    asked = request and (request.library, request.name)
    fitting = [found for found in propose(shapes) if (found.library, found.name) != asked]
    if not fitting:
        return None
    names = ", ".join(f"{request.library.value}'s {request.name}" for request in fitting)
    example = json.dumps(fitting[0].model_dump(mode="json", include={"library", "name"}))
    return f'has the tensors of {names}: say which it is with "architecture", as {example}'


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
        architecture=architecture,
        parameters=counts.total,
        students=[counts.student(depth, blocks, flops, measured) for depth, blocks in students],
        parameter_counts=counts,
        first_blocks_stay=[first_stands_out(section) for section in network.sections],
        input_shape=None if flops is None else input_shape(architecture),
        flops=flops,
        latency=latency,
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


def _format(path: Path) -> TeacherFormat:
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:9] == b"{":
        return TeacherFormat.SAFETENSORS
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return TeacherFormat.PT
    raise TeacherError("the file is neither safetensors nor a .pt file: save model.state_dict() as one of them")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > HEADER_BYTES:
        raise TeacherError(too_long_header(header_bytes))
    try:
        return load_file(path)
    except (safetensors.SafetensorError, ValueError) as failure:
        raise TeacherError(f"the safetensors file cannot be read: {failure}") from failure


def _load_pt(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            _check_zip(path)
        else:
            _check_pickles(path)
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, MemoryError) as failure:
        # Memory runs out where a damaged file names a length that it doesn't have.
        raise TeacherError(f"the .pt file cannot be read (is it whole?): {failure}") from failure
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as failure:
        raise TeacherError(
            "the .pt file holds more than tensors (a pickled module, perhaps), and code is never run from an upload: "
            "save model.state_dict() instead"
        ) from failure
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError) as failure:
        reason = str(failure).splitlines()[0] if str(failure) else type(failure).__name__
        raise TeacherError(f"the .pt file cannot be read (is it whole?): {reason}") from failure


def _check_zip(path: Path) -> None:
    """Look at the archive before torch does. Raises TeacherError."""
    if (size := directory_bytes(path)) > DIRECTORY_BYTES:
        raise TeacherError(f"the .pt file's directory has {size} bytes, but at most {DIRECTORY_BYTES} are read: {SAVE}")
    with zipfile.ZipFile(path) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
    if len(sizes) > MEMBERS:
        raise TeacherError(too_many_tensors(len(sizes)))
    if any("/code/" in name or name.endswith("constants.pkl") for name in sizes):
        raise TeacherError(f"the file is TorchScript, which is not accepted: {SAVE}")
    pickles = [size for name, size in sizes.items() if name.endswith("data.pkl")]
    if not pickles:
        raise TeacherError(f"the zip file is no .pt file of torch.save: {SAVE}")
    if (size := max(pickles)) > PICKLE_BYTES:
        raise _too_long_pickle()


def _check_pickles(path: Path) -> None:
    """The same for torch's old format: five pickles and then the weights. Nothing is unpickled. Raises TeacherError."""
    with path.open("rb") as file:
        for _ in range(5):
            for _, _, place in pickletools.genops(file):
                if (place or 0) > PICKLE_BYTES:
                    raise _too_long_pickle()


def _too_long_pickle() -> TeacherError:
    return TeacherError(f"the .pt file has more than {PICKLE_BYTES} bytes beside its weights: {SAVE}")


def _unwrapped(loaded: Any) -> Mapping[str, Any]:
    if not isinstance(loaded, Mapping):
        raise TeacherError(f"the file holds a {type(loaded).__name__}, not a state dict")
    for name in WRAPPERS:
        if isinstance(loaded.get(name), Mapping):
            inner: Mapping[str, Any] = loaded[name]
            return inner
    return loaded


def _with_plain_names(state: Mapping[Any, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in state.items():
        name = _stripped(key)
        if name in plain:
            raise TeacherError(f"the state dict has {name} twice, once with a prefix: save one of them")
        plain[name] = value
    return plain


def _stripped(key: Any) -> str:
    if not isinstance(key, str):
        raise TeacherError(f"the state dict has the key {key!r}, which is not text: save model.state_dict()")
    prefixes = PREFIXES.match(key)
    return key if prefixes is None else key[prefixes.end() :]


def _check_tensors(state: Mapping[str, Any]) -> None:
    if not state:
        raise TeacherError("the state dict is empty")
    if len(state) > TENSORS:
        raise TeacherError(too_many_tensors(len(state)))
    for name, value in state.items():
        if not isinstance(value, Tensor):
            wrappers = ", ".join(WRAPPERS)
            raise TeacherError(
                f"{name} is of type {type(value).__name__}, not a tensor: give a state dict, bare or under {wrappers}"
            )
        if value.layout != torch.strided or value.is_quantized:
            raise TeacherError(f"{name} is sparse or quantised: only dense tensors are accepted")
        if value.is_complex():
            raise TeacherError(f"{name} is complex: only real weights are accepted")


def _as_float32(name: str, tensor: Tensor) -> Tensor:
    converted = tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous().clone()
    if converted.is_floating_point() and not torch.isfinite(converted).all():
        raise TeacherError(f"{name} has values that are not finite in float32")
    return converted


def _completed(state: dict[str, Tensor], recognised: Recognised) -> dict[str, Tensor]:
    """In the network's order, with BatchNorm's step counters, which old checkpoints do not have."""
    return {
        name: state[name] if name in state else torch.zeros(expected.shape, dtype=expected.dtype)
        for name, expected in meta_network(recognised.architecture).state_dict().items()
    }


def meta_network(architecture: Architecture) -> nn.Module:
    """The network's names and shapes, without memory if possible."""
    return as_shapes(lambda: family_of(architecture).build(architecture))
