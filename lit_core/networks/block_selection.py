"""Choosing the teacher's blocks that a student keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.networks.sections import SectionedNetwork
from lit_spec import Select
from lit_spec.networks.students import BlockCosts, Keep, evenly, first, least_reduced, shares
from lit_spec.trainer.report import TargetReport

Inputs = tuple[Tensor, ...]
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


@dataclass(frozen=True)
class FixedBlocks:
    """A student with this many blocks of each section."""

    by_section: Sequence[int]


@dataclass(frozen=True)
class Budget:
    """The deepest student that costs at most `most`."""

    costs: BlockCosts
    most: int


@dataclass(frozen=True)
class AllowedDrop:
    """The shallowest student that loses at most `most` points before its training."""

    most: float
    drop: Callable[[list[list[int]]], float]
    """What a student with these blocks of each section loses."""


Wanted = FixedBlocks | Budget | AllowedDrop


class Unreachable(Exception):
    """No student is as it is wanted. `nearest` is the cost of the cheapest one, or the drop of the deepest one."""

    def __init__(self, nearest: float) -> None:
        super().__init__(f"the nearest student reaches {nearest:g}")
        self.nearest = nearest


def select_blocks(teacher: SectionedNetwork, wanted: Wanted, select: Select, batches: Iterable[Inputs]) -> Selection:
    """The blocks of the student that is wanted. This is the one place where a job and `compress` choose them.

    `batches` of inputs are used only for `importance`. Raises Unreachable.
    """
    whole = [len(section) for section in teacher.sections]
    importance = importances(teacher, batches) if select == Select.IMPORTANCE else None

    def keep(section: int, count: int) -> list[int]:
        if importance is not None:
            return _most_important(importance[section], count)
        return first(whole[section], count) if select == Select.FIRST else evenly(whole[section], count)

    blocks = _blocks(whole, wanted, keep)
    return Selection(_kept(keep, blocks), importance)


def _blocks(whole: list[int], wanted: Wanted, keep: Keep) -> Sequence[int]:
    """How many blocks of each section. Raises Unreachable."""
    match wanted:
        case FixedBlocks(by_section):
            return by_section
        case Budget(costs, most):
            blocks = least_reduced(costs, most, keep)
            if blocks is None:
                raise Unreachable(costs.left(_kept(keep, [1] * len(whole))))
            return blocks
        case AllowedDrop():
            return _shallowest(whole, wanted, keep)


def _shallowest(whole: list[int], allowed: AllowedDrop, keep: Keep) -> list[int]:
    """One block less at a time, until that loses too much."""
    best: list[int] | None = None
    for depth in reversed(range(len(whole), sum(whole))):
        blocks = shares(whole, depth)
        drop = allowed.drop(_kept(keep, blocks))
        if drop > allowed.most:
            if best is None:
                raise Unreachable(drop)
            break
        best = blocks
    if best is None:
        raise Unreachable(0.0)
    return best


def _kept(keep: Keep, blocks: Sequence[int]) -> list[list[int]]:
    return [keep(section, count) for section, count in enumerate(blocks)]


def _most_important(values: Sequence[float | None], wanted: int) -> list[int]:
    """The indices of the most important blocks, ascending. Of equally important blocks, the earlier ones are taken."""
    ranked = sorted(range(len(values)), key=lambda place: (-_rank(values[place]), place))
    return sorted(ranked[:wanted])


def _rank(value: float | None) -> float:
    return float("inf") if value is None else value


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
