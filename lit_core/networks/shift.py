"""A repair in closed form: a block before a gap gets the mean output that the teacher has after the gap.

The difference of the means, channel by channel, goes into the bias of the block's last layer, where the block's output
moves by exactly what is added to that bias: in blocks that end with a normalisation, a linear layer or a convolution,
with or without a residual connection around them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.networks.block_selection import Inputs
from lit_core.networks.sections import SectionedNetwork


@dataclass(frozen=True)
class Gap:
    """Blocks that a student lacks after one that it keeps."""

    section: int
    place: int
    """Of the block before the gap, in the student's section."""
    last: int
    """Of the last missing block, in the teacher's section."""


def gaps_of(teacher: SectionedNetwork, student: SectionedNetwork) -> list[Gap]:
    """In the order in which the student runs. Before a section's first kept block there is no block to be shifted."""
    gaps = []
    for section, kept in enumerate(student.kept_blocks):
        ends = [*kept[1:], len(teacher.sections[section])]
        gaps += [
            Gap(section, place, end - 1)
            for place, (own, end) in enumerate(zip(kept, ends, strict=True))
            if end > own + 1
        ]
    return gaps


@torch.no_grad()
def shift(teacher: SectionedNetwork, student: SectionedNetwork, gap: Gap, batches: Sequence[Inputs]) -> bool:
    """Shift the output of the block before the gap. False if no bias of the block moves its output by what is added to
    it."""
    block = student.sections[gap.section][gap.place]
    found = _last_bias(student, block, batches[0])
    if found is None:
        return False
    bias, axis = found
    wanted = _mean(teacher, teacher.sections[gap.section][gap.last], axis, batches)
    bias.add_((wanted - _mean(student, block, axis, batches)).to(bias))
    return True


def _last_bias(student: SectionedNetwork, block: nn.Module, inputs: Inputs) -> tuple[nn.Parameter, int] | None:
    """The bias that shifts the block's output, and the output's axis of channels. Not one that the model fixes."""
    few = tuple(x[:2] for x in inputs)
    ran: list[nn.Module] = []
    handles = [
        module.register_forward_hook(lambda module, _args, _output: ran.append(module)) for module in block.modules()
    ]
    with _output_of(block) as outputs:
        student.network(*few)
    for handle in handles:
        handle.remove()
    before = outputs[0]
    for module in reversed(ran):
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter) and bias.ndim == 1:
            axis = _moved_axis(student, block, bias, before, few) if student.learns(bias) else None
            return None if axis is None else (bias, axis)
    return None


def _moved_axis(
    student: SectionedNetwork, block: nn.Module, bias: nn.Parameter, before: Tensor, few: Inputs
) -> int | None:
    """The axis along which the block's output moves by exactly what is added to the bias."""
    old = bias.detach().clone()
    scale = float(before.std().clamp_min(1e-3))
    step = scale * torch.linspace(-1, 1, len(bias), device=bias.device, dtype=bias.dtype)
    bias.add_(step)
    with _output_of(block) as outputs:
        student.network(*few)
    bias.copy_(old)
    moved = outputs[0] - before
    for axis in range(1, before.ndim):
        if before.shape[axis] == len(bias):
            shape = [-1 if place == axis else 1 for place in range(before.ndim)]
            if torch.allclose(moved, step.view(shape).expand_as(moved), atol=1e-3 * scale):
                return axis
    return None


def _mean(network: SectionedNetwork, block: nn.Module, axis: int, batches: Sequence[Inputs]) -> Tensor:
    """Of the block's outputs, by channel, float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for inputs in batches:
        with _output_of(block) as outputs:
            network.network(*inputs)
        axes = [place for place in range(outputs[0].ndim) if place != axis]
        total = total.to(outputs[0].device) + outputs[0].double().mean(dim=axes) * len(inputs[0])
        count += len(inputs[0])
    return total / count


@contextmanager
def _output_of(block: nn.Module) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []

    def save(_module: nn.Module, _args: Any, output: Any) -> None:
        # A copy, because a later layer may change it in place.
        outputs.append((output[0] if isinstance(output, tuple) else output).clone())

    handle = block.register_forward_hook(save)
    try:
        yield outputs
    finally:
        handle.remove()
