"""Choosing blocks: for a number of blocks, for a budget, or for an allowed drop of accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lit_core.networks.block_selection import Inputs, Selection, importances
from lit_core.networks.sections import SectionedNetwork
from lit_core.seeding import seeded
from lit_core.selection.recovery import Goal, Recovery
from lit_spec import Output, Select
from lit_spec.networks.students import BlockCosts, Keep, least_reduced, shares
from lit_spec.requests.student import FIXED_RULES


@dataclass(frozen=True)
class FixedBlocks:
    """A student with this many blocks of each section."""

    by_section: Sequence[int]


@dataclass(frozen=True)
class Depth:
    """A student with this many blocks in all. Only `recover` chooses how many of them are in each section."""

    total: int


@dataclass(frozen=True)
class Budget:
    """A student that costs at most `most`: by `recover` the one with the least damage for what it saves, otherwise the
    deepest one."""

    costs: BlockCosts
    most: int


@dataclass(frozen=True)
class AllowedDrop:
    """The shallowest student that loses at most `most` points before its training."""

    most: float
    drop: Callable[[list[list[int]]], float]
    """What a student with these blocks of each section loses."""


Wanted = FixedBlocks | Depth | Budget | AllowedDrop


class Unreachable(Exception):
    """No student is as it is wanted. `nearest` is the cost of the cheapest one, or the drop of the deepest one."""

    def __init__(self, nearest: float) -> None:
        super().__init__(f"the nearest student reaches {nearest:g}")
        self.nearest = nearest


def select_blocks(
    teacher: SectionedNetwork,
    wanted: Wanted,
    select: Select,
    batches: Iterable[Inputs],
    output: Output = Output.LOGITS,
) -> Selection:
    """The blocks of the student that is wanted. This is the one place where a job and `compress` choose them.

    `batches` of inputs are used only for `importance` and `recover`; `output` is what the network puts out. Raises
    Unreachable.
    """
    if select == Select.RECOVER:
        return _recover(teacher, wanted, batches, output)
    whole = [len(section) for section in teacher.sections]
    importance = importances(teacher, batches) if select == Select.IMPORTANCE else None

    def keep(section: int, count: int) -> list[int]:
        if importance is not None:
            return _most_important(importance[section], count)
        return FIXED_RULES[select](whole[section], count)

    blocks = _blocks(whole, wanted, keep)
    return Selection(_kept(keep, blocks), importance)


def _recover(teacher: SectionedNetwork, wanted: Wanted, batches: Iterable[Inputs], output: Output) -> Selection:
    """Raises Unreachable."""
    with seeded(0):
        # Networks and repairs may draw random numbers, and nothing that is drawn later depends on that.
        return _recovered(teacher, wanted, batches, output)


def _recovered(teacher: SectionedNetwork, wanted: Wanted, batches: Iterable[Inputs], output: Output) -> Selection:
    recovery = Recovery(teacher, batches, output)
    whole = [len(section) for section in teacher.sections]
    if isinstance(wanted, AllowedDrop):
        allowed = _Allowed(wanted)
        found = recovery.descend(allowed)
        nearest = allowed.last
    else:
        goal = _goal(whole, wanted)
        found = recovery.choose(goal)
        nearest = wanted.costs.left(recovery.smallest(goal.saved)) if isinstance(wanted, Budget) else len(whole)
    if found is None:
        raise Unreachable(nearest)
    return found


class _Allowed:
    """Whether a student's drop is allowed. Remembers the drop that it was asked about last."""

    def __init__(self, wanted: AllowedDrop) -> None:
        self.wanted, self.last = wanted, 0.0

    def __call__(self, kept: list[list[int]]) -> bool:
        self.last = self.wanted.drop(kept)
        return self.last <= self.wanted.most


def _goal(whole: Sequence[int], wanted: FixedBlocks | Depth | Budget) -> Goal:
    def left_out(kept: list[list[int]]) -> float:
        return sum(whole) - sum(map(len, kept))

    match wanted:
        case Budget(costs, most):
            return Goal(lambda kept: costs.left(kept) <= most, lambda kept: costs.total - costs.left(kept))
        case Depth(total):
            return Goal(lambda kept: sum(map(len, kept)) <= total, left_out)
        case FixedBlocks(by_section):
            return Goal(lambda kept: [len(indices) for indices in kept] == list(by_section), left_out, least=by_section)


def _blocks(whole: list[int], wanted: Wanted, keep: Keep) -> Sequence[int]:
    """How many blocks of each section. Raises Unreachable."""
    match wanted:
        case FixedBlocks(by_section):
            return by_section
        case Depth(total):
            return shares(whole, total)
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
        if not drop <= allowed.most:  # a NaN is no drop that is allowed
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
