"""What the teacher makes of a batch: its output and, where the objective needs them, its sections' representations and
its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lit_core.networks.features import FeatureReader
from lit_core.networks.sections import SectionedNetwork, Trace
from lit_core.training.batch import Batch


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
    """Runs the teacher's network for each batch."""

    def __init__(self, network: SectionedNetwork, needs: Needs) -> None:
        self.network, self.needs = network, needs

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Taught:
        network, needs = self.network, self.needs
        if needs.nothing:
            return Taught(batch.labels.new_empty(0))
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
