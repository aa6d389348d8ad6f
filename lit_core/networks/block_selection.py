"""Which of the teacher's blocks a student keeps, and how important each of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.networks.sections import SectionedNetwork
from lit_spec.trainer.report import TargetReport

Inputs = tuple[Tensor, ...]
Sample = Callable[[int], Inputs]
"""Inputs of a given batch size, on the network's device."""
LEAST_NORM = 1e-12


@dataclass(frozen=True)
class Selection:
    kept_blocks: list[list[int]]
    """For each section: the indices of the teacher's blocks, from 0, ascending."""
    importance: list[list[float | None]] | None = None
    """For each block of the teacher: how much it changes its representation. None for a block that must stay because it
    changes the shape."""
    target: TargetReport | None = None
    """What was expected of these blocks, if they were chosen for a target."""
    damages: list[list[float | None]] | None = None
    """For each block of the teacher: the damage of leaving it out alone. None for a block that must stay."""
    repaired: dict[str, Tensor] | None = None
    """The weights of the chosen student after its repair, on the CPU. None if it was not repaired, or if that did not
    bring it closer to the teacher."""


@torch.no_grad()
def importances(teacher: SectionedNetwork, batches: Iterable[Inputs]) -> list[list[float | None]]:
    """‖T_b(x) - x‖ / ‖x‖ of each block b: the mean over the samples of all batches, with the teacher in eval mode.

    A block that hardly changes its representation is the least needed one. The first block of a section is None if it
    changes the shape or has other tensors than the second: it can't be left out.
    """
    sums: list[list[Tensor | None]] = [[None] * len(section) for section in teacher.sections]
    samples = size = 0

    entered: dict[tuple[int, int], Tensor] = {}

    def before(section: int, block: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            # A copy, because the block may change its input in place.
            entered[section, block] = args[0].clone()

        return hook

    def after(section: int, block: int) -> Any:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
            given = entered.pop((section, block))
            if given.shape == output.shape:
                change = (output - given).float().flatten(1).norm(dim=1)
                # The mean over the first axis, which need not be the samples: transformers also take (L, B, E).
                ratio = (change / given.float().flatten(1).norm(dim=1).clamp_min(LEAST_NORM)).double().mean() * size
                so_far = sums[section][block]
                sums[section][block] = ratio if so_far is None else so_far + ratio

        return hook

    handles = [
        handle
        for n, section in enumerate(teacher.sections)
        for b, module in enumerate(section)
        for handle in (
            module.register_forward_pre_hook(before(n, b)),
            module.register_forward_hook(after(n, b)),
        )
    ]
    try:
        for inputs in batches:
            size = len(inputs[0])
            teacher.network(*inputs)
            samples += size
    finally:
        for handle in handles:
            handle.remove()
    if samples == 0:
        raise ValueError("importance needs data: give at least one batch")
    return [
        [
            None if total is None or (place == 0 and first_stands_out(section)) else round(float(total) / samples, 6)
            for place, total in enumerate(totals)
        ]
        for section, totals in zip(teacher.sections, sums, strict=True)
    ]


@torch.no_grad()
def first_blocks_stay(teacher: SectionedNetwork, inputs: Inputs) -> list[bool]:
    """For each section whether its first block can't be left out, because it changes the shape or stands out."""
    stay = [first_stands_out(section) for section in teacher.sections]

    def after(section: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            stay[section] |= args[0].shape != output.shape

        return hook

    handles = [section[0].register_forward_hook(after(n)) for n, section in enumerate(teacher.sections)]
    try:
        teacher.network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return stay


def first_stands_out(section: nn.Sequential) -> bool:
    """Whether the first block has other tensors than the second."""
    if len(section) < 2:
        return False
    first, second = ({name: tensor.shape for name, tensor in section[number].state_dict().items()} for number in (0, 1))
    return first != second
