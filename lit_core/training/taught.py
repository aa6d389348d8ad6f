"""What the teacher makes of a batch: its output and, where the objective needs them, its sections' representations and
its features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lit_core.networks.features import FeatureReader
from lit_core.networks.inference import in_half_precision, inference_copy
from lit_core.networks.sections import ExtraArguments, SectionedNetwork, Trace
from lit_core.training.batch import Batch
from lit_spec import Precision


@dataclass(frozen=True)
class Needs:
    """What an objective needs of the teacher, the same for every batch. With nothing the teacher is not run."""

    output: bool = True
    trace: bool = False
    """Whether it needs what leaves each section."""
    inputs: bool = False
    """Whether it needs what enters the sections too. For that it needs the trace."""
    first_input: bool = False
    """Whether it needs what enters the first section, if sections follow each other without layers in between."""
    features: FeatureReader | None = None
    """Reads the features, if they are needed."""

    @property
    def nothing(self) -> bool:
        return not self.output and not self.trace and self.features is None


@dataclass(frozen=True)
class Taught:
    """What the teacher made of one batch, without gradients."""

    output: Tensor
    """As in a Trace; empty where an objective does not need it and the teacher was not run."""
    representations: Trace | None = None
    read_features: Tensor | None = None

    @property
    def trace(self) -> Trace:
        """Raises ValueError if the objective's needs don't name it."""
        if self.representations is None:
            raise ValueError("the teacher was run without its trace: let the objective's needs ask for it")
        return self.representations

    @property
    def features(self) -> Tensor:
        """Raises ValueError if the objective's needs don't name them."""
        if self.read_features is None:
            raise ValueError("the teacher was run without its features: let the objective's needs ask for them")
        return self.read_features


class Teacher(Protocol):
    """Teaches the batches of one phase."""

    def __call__(self, batch: Batch) -> Taught: ...


class LiveTeacher:
    """Runs the teacher's network for each batch, as a program for inference."""

    def __init__(self, network: SectionedNetwork, needs: Needs, precision: Precision | None = None) -> None:
        """`precision` None: that of the training, by its autocast."""
        self.network, self.needs, self.precision = network, needs, precision
        self._program: SectionedNetwork | None = None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Taught:
        if self.needs.nothing:
            return Taught(batch.labels.new_empty(0))
        with self._in_its_precision(batch) as program:
            taught = _taught(program, self.needs, batch)
        return in_float32(taught) if self._converts(batch) else taught

    @torch.no_grad()
    def stem_output(self, batch: Batch) -> Tensor:
        """What enters the first section, as in the trace of a call."""
        with self._in_its_precision(batch) as program:
            entered = program.stem_output(*batch.inputs)
        return _float32(entered) if self._converts(batch) else entered

    @contextmanager
    def _in_its_precision(self, batch: Batch) -> Iterator[SectionedNetwork]:
        """The program, under the teacher's own autocast if it has a precision of its own."""
        if self._program is None:
            self._program = self._program_for(batch)
        if self.precision is None:
            yield self._program
            return
        half = self.precision == Precision.BFLOAT16
        with torch.autocast(batch.inputs[0].device.type, dtype=torch.bfloat16, enabled=half):
            yield self._program

    def _converts(self, batch: Batch) -> bool:
        """Whether the student is to be told in float32 what was made in a precision of the teacher's own."""
        return self.precision is not None and not torch.is_autocast_enabled(batch.inputs[0].device.type)

    def _program_for(self, batch: Batch) -> SectionedNetwork:
        device = batch.inputs[0].device.type
        half = self.precision == Precision.BFLOAT16 or (self.precision is None and torch.is_autocast_enabled(device))
        with torch.autocast(device, enabled=False):
            program = inference_copy(self.network, batch.inputs)
        return in_half_precision(program) if half else program


def _taught(network: SectionedNetwork, needs: Needs, batch: Batch) -> Taught:
    if needs.features is not None and needs.trace:
        trace, features = needs.features.trace(network, *batch.inputs)
        return Taught(trace.output, trace, features)
    if needs.features is not None:
        output, features = needs.features.run(network, *batch.inputs)
        return Taught(output, None, features)
    if needs.trace:
        trace = network.trace(*batch.inputs)
        return Taught(trace.output, trace)
    return Taught(network.run(*batch.inputs))


def in_float32(taught: Taught) -> Taught:
    """With all tensors in bfloat16 converted, for a student that is trained in float32."""
    trace = taught.representations
    return Taught(
        _float32(taught.output),
        None if trace is None else _trace_in_float32(trace),
        None if taught.read_features is None else _float32(taught.read_features),
    )


def _trace_in_float32(trace: Trace) -> Trace:
    inputs, outputs = [_float32(one) for one in trace.inputs], [_float32(one) for one in trace.outputs]
    extra = [
        [ExtraArguments(*tree_map(_float32, (one.args, one.kwargs))) for one in blocks]
        for blocks in trace.extra_arguments
    ]
    return Trace(_float32(trace.output), inputs, outputs, extra, trace.is_chain)


def _float32(argument: Any) -> Any:
    """A tensor in bfloat16 converted; anything else unchanged."""
    return argument.float() if isinstance(argument, Tensor) and argument.dtype == torch.bfloat16 else argument
