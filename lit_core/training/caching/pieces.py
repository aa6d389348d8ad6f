"""What is kept of the teacher: a batch's `Taught` as pieces by name, one tensor (B, …) each, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lit_core.networks.sections import ExtraArguments, Trace
from lit_core.networks.watching import PLAIN
from lit_core.training.batch import Batch
from lit_core.training.taught import LiveTeacher, Needs, Taught

OUTPUT, FEATURES = "output", "features"


class NotCacheable(Exception):
    """What this teacher makes of a sample can't be kept; the text says why."""


@dataclass(frozen=True)
class Piece:
    name: str
    shape: tuple[int, ...]
    """Of one sample."""
    dtype: torch.dtype
    """As the teacher makes it, and the same for the memory format."""
    channels_last: bool = False

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    def as_rows(self, tensor: Tensor) -> Tensor:
        """(B, …) as (B, values), images with their channels last."""
        return (tensor.movedim(1, -1) if len(self.shape) == 3 else tensor).flatten(1)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The tensor (B, …) of these rows."""
        if len(self.shape) != 3:
            return rows.view(len(rows), *self.shape)
        channels, height, width = self.shape
        images = rows.view(len(rows), height, width, channels).movedim(-1, 1)
        return images if self.channels_last else images.contiguous()


@dataclass(frozen=True)
class Layout:
    """Which pieces a teacher's `Taught` consists of, and what is the same for every batch.

    The representation that enters the first section is not kept: the stem is cheap, and its output is large.
    """

    pieces: tuple[Piece, ...]
    traced: bool
    is_chain: bool
    runs_stem: bool
    extra_arguments: list[list[ExtraArguments]]

    def pieces_of(self, taught: Taught) -> dict[str, Tensor]:
        found = _pieces(taught)
        return {piece.name: found[piece.name] for piece in self.pieces}

    def taught(self, pieces: Mapping[str, Tensor], live: LiveTeacher, batch: Batch) -> Taught:
        """The same from its pieces. The teacher's stem is run if the objective needs its output."""
        nothing = batch.inputs[0].new_empty(0)
        output = pieces.get(OUTPUT, nothing)
        if not self.traced:
            return Taught(output, None, pieces.get(FEATURES))
        outputs = [pieces[_left(n)] for n in range(len(self.extra_arguments))]
        first = live.stem_output(batch) if self.runs_stem else nothing
        later = outputs[:-1] if self.is_chain else [pieces.get(_entered(n), nothing) for n in range(1, len(outputs))]
        trace = Trace(output, [first, *later], outputs, self.extra_arguments, self.is_chain)
        return Taught(output, trace, pieces.get(FEATURES))


def layout_of(live: LiveTeacher, batch: Batch) -> Layout:
    """From what the teacher makes of a batch. Raises NotCacheable."""
    needs, taught, size = live.needs, live(batch), len(batch.labels)
    trace = taught.trace if needs.trace else None
    if trace is not None:
        _check_arguments(trace)
    found = _pieces(taught)
    for name, tensor in found.items():
        if tensor.ndim == 0 or len(tensor) != size or not tensor.is_floating_point():
            shown = f"{tensor.dtype} of the shape {list(tensor.shape)}".removeprefix("torch.")
            raise NotCacheable(f"the teacher's {name} is {shown}, not one tensor of floats for each of {size} samples")
    is_chain = trace is None or trace.is_chain
    return Layout(
        tuple(
            Piece(name, tuple(tensor.shape[1:]), tensor.dtype, _is_channels_last(tensor))
            for name, tensor in found.items()
            if _is_needed(name, needs, is_chain)
        ),
        traced=trace is not None,
        is_chain=is_chain,
        runs_stem=needs.first_input or (needs.inputs and not is_chain),
        extra_arguments=[] if trace is None else trace.extra_arguments,
    )


def _is_channels_last(tensor: Tensor) -> bool:
    is_image = tensor.ndim == 4 and not tensor.is_contiguous()
    return is_image and tensor.is_contiguous(memory_format=torch.channels_last)


def _pieces(taught: Taught) -> dict[str, Tensor]:
    """All that there are, apart from what enters the first section."""
    found = {OUTPUT: taught.output}
    if taught.read_features is not None:
        found[FEATURES] = taught.read_features
    if taught.representations is not None:
        found |= {_left(n): tensor for n, tensor in enumerate(taught.representations.outputs)}
        found |= {_entered(n): tensor for n, tensor in enumerate(taught.representations.inputs) if n}
    return found


def _is_needed(name: str, needs: Needs, is_chain: bool) -> bool:
    if name == OUTPUT:
        return needs.output
    return not name.startswith("input") or (needs.inputs and not is_chain)


def _left(section: int) -> str:
    return f"output_of_section_{section + 1}"


def _entered(section: int) -> str:
    return f"input_of_section_{section + 1}"


def _check_arguments(trace: Trace) -> None:
    """Raises NotCacheable for blocks whose extra arguments may be others for other samples."""
    for one in (one for blocks in trace.extra_arguments for one in blocks):
        if not all(isinstance(leaf, PLAIN) for leaf in tree_leaves((one.args, dict(one.kwargs)))):
            raise NotCacheable(
                "the teacher's blocks get tensors beside the representation, such as masks or position embeddings, "
                "which are not kept"
            )
