"""The students that a network may have, and what each costs: parameters, FLOPs or latency."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple, TypeVar

from pydantic import Field

from lit_spec.base import SpecModel

Key = TypeVar("Key")

MOST_SUMS = 4_000
"""Up to this many different sums in each half of the sections, the search of `least_reduced` is exact."""


Rule = Callable[[int, int], list[int]]
"""(blocks of the teacher's section, of the student's) -> the indices of the blocks that are kept."""
Keep = Callable[[int, int], list[int]]
"""(section, blocks) -> the indices of the blocks of that section that a student with so many of them has."""


class StudentOption(SpecModel):
    """A possible student, and what it would save."""

    depth: int
    """As in `student.depth` of a request."""
    blocks: list[int]
    """Blocks of each section."""
    parameters: int
    """Number of its parameters."""
    parameters_ratio: float
    """Teacher / student."""
    flops: int | None = None
    """Of one input. None: they are not known."""
    latency_ms: float | None = None
    """Of one input, as expected from the latency of the teacher's blocks. None: that was not measured."""


class SharedParameters(SpecModel):
    """Parameters that several blocks have in common, and nothing outside of these blocks has."""

    blocks: list[tuple[int, int]]
    """Section and index of each block."""
    parameters: int
    """How many they are."""


class BlockCosts(SpecModel):
    """What a network costs, and how much of that each of its blocks. Whole numbers, so that sums are exact: parameters,
    FLOPs, or nanoseconds of a forward pass."""

    total: int
    """Of the whole network."""
    blocks: list[list[int]]
    """Of each block of each section."""

    def left(self, kept_blocks: Sequence[Sequence[int]]) -> int:
        """What a student with these blocks of each section costs."""
        gone = sum(
            cost
            for costs, kept in zip(self.blocks, map(frozenset, kept_blocks), strict=True)
            for index, cost in enumerate(costs)
            if index not in kept
        )
        return self.total - gone

    def evenly_left(self, blocks: Sequence[int]) -> int:
        """What a student with so many evenly spaced blocks of each section costs."""
        return self.left([evenly(len(costs), wanted) for costs, wanted in zip(self.blocks, blocks, strict=True)])


class ParameterCounts(BlockCosts):
    """Where a network's parameters are, each counted once. `blocks` are those that only one block has."""

    shared: list[SharedParameters] = Field(default_factory=list)
    """Parameters that several blocks have in common."""

    def left(self, kept_blocks: Sequence[Sequence[int]]) -> int:
        unused = (
            group.parameters
            for group in self.shared
            if not any(index in kept_blocks[section] for section, index in group.blocks)
        )
        return super().left(kept_blocks) - sum(unused)

    def student(
        self, depth: int, blocks: Sequence[int], flops: BlockCosts | None = None, latency: BlockCosts | None = None
    ) -> StudentOption:
        """What a student of evenly spaced blocks saves."""
        left = self.evenly_left(blocks)
        return StudentOption(
            depth=depth,
            blocks=list(blocks),
            parameters=left,
            # Rounded down, so that this student satisfies a request for this ratio.
            parameters_ratio=self.total * 1000 // left / 1000,
            flops=None if flops is None else flops.evenly_left(blocks),
            latency_ms=None if latency is None else round(latency.evenly_left(blocks) / NANOSECONDS_PER_MS, 4),
        )


NANOSECONDS_PER_MS = 1_000_000


def evenly(teacher_blocks: int, student_blocks: int) -> list[int]:
    """Indices of evenly spaced blocks, the first block included."""
    return [i * teacher_blocks // student_blocks for i in range(student_blocks)]


def first(_teacher_blocks: int, student_blocks: int) -> list[int]:
    """Indices of the first blocks."""
    return list(range(student_blocks))


def most_left(total: int, ratio: float) -> int:
    """The most that a student may cost that costs at least `ratio` times less than `total`."""
    return total - bisect_left(range(total + 1), True, key=lambda removed: total >= ratio * (total - removed))


def shares(blocks: list[int], total: int) -> list[int]:
    """Distribute `total` blocks over the sections in proportion to the teacher's, with at least one per section.

    By highest averages: with a larger total no section gets fewer blocks.
    """
    given = [1] * len(blocks)
    for _ in range(total - len(blocks)):
        not_full = [n for n, count in enumerate(blocks) if given[n] < count]
        given[max(not_full, key=lambda n: (blocks[n] / given[n], -n))] += 1
    return given


class _Reduction(NamedTuple):
    """Blocks that some of the sections lose. Of two reductions the smaller one is preferred."""

    dropped: int
    """Blocks."""
    removed: int
    """Of the cost."""
    unevenness: float
    """Σ d² / t over the sections, d of whose t blocks are dropped: the least for an equal share of each section."""
    by_section: tuple[int, ...]
    """How many blocks of each section are dropped."""

    def plus(self, other: _Reduction) -> _Reduction:
        return _Reduction(
            self.dropped + other.dropped,
            self.removed + other.removed,
            self.unevenness + other.unevenness,
            self.by_section + other.by_section,
        )


def least_reduced(costs: BlockCosts, most: int, keep: Keep | None = None) -> list[int] | None:
    """The blocks per section of the deepest student that costs at most `most`, of several the one that costs the most.
    `keep` says which blocks of a section a student has; None: evenly spaced ones. None if every student costs more.

    All numbers of blocks per section are compared. Of several students with equally many blocks and equal costs it is
    the one whose blocks are shared as for a `depth`, then the one with the most even shares. In networks with very
    many sections and sizes of blocks, some sums of costs are left out of the search, so another student may be a little
    deeper or cost a little more. The same holds where blocks of several sections share parameters, which the search
    counts as kept.
    """
    blocks = [len(section) for section in costs.blocks]
    search = _Search(costs, blocks, keep or (lambda section, wanted: evenly(blocks[section], wanted)))
    needed = costs.total - most
    enough = [reduction for reduction in search.evenly_shared() if reduction.removed >= needed]
    least = min(_reductions(search.by_section(), needed), default=None)
    if least is not None:
        # Without what its sections share, if that goes as well.
        enough.append(least._replace(removed=search.removed(search.without(least))))
    return search.without(min(enough)) if enough else None


class _Search(NamedTuple):
    costs: BlockCosts
    blocks: list[int]
    keep: Keep

    def removed(self, blocks: Sequence[int]) -> int:
        kept = [self.keep(section, wanted) for section, wanted in enumerate(blocks)]
        return self.costs.total - self.costs.left(kept)

    def without(self, reduction: _Reduction) -> list[int]:
        return [whole - dropped for whole, dropped in zip(self.blocks, reduction.by_section, strict=True)]

    def evenly_shared(self) -> Iterator[_Reduction]:
        for depth in range(len(self.blocks), sum(self.blocks) + 1):
            own = shares(self.blocks, depth)
            by_section = tuple(whole - left for whole, left in zip(self.blocks, own, strict=True))
            # Less than any unevenness, so that it is taken where others cost as much.
            yield _Reduction(sum(by_section), self.removed(own), -1.0, by_section)

    def by_section(self) -> list[list[_Reduction]]:
        """For each section the loss of 0, 1, … of its blocks."""
        ways: list[list[_Reduction]] = []
        for section, whole in enumerate(self.blocks):
            kept = [list(range(count)) for count in self.blocks]
            ways.append([])
            for dropped in range(whole):
                kept[section] = self.keep(section, whole - dropped)
                removed = self.costs.total - self.costs.left(kept)
                ways[-1].append(_Reduction(dropped, removed, dropped**2 / whole, (dropped,)))
        return ways


def _reductions(ways: list[list[_Reduction]], needed: int) -> Iterator[_Reduction]:
    """Reductions of all sections by at least `needed`. For each number of blocks, the least is among them.

    The sums of all sections would be too many, so those of two halves are made, and to each sum of the one half the
    smallest fitting sum of the other is looked up.
    """
    sizes = [len(way) for way in ways]
    middle = min(range(len(ways)), key=lambda end: max(prod(sizes[:end]), prod(sizes[end:])))
    by_dropped: dict[int, list[_Reduction]] = defaultdict(list)
    for one in sorted(_sums(ways[middle:])):
        by_dropped[one.dropped].append(one)
    for first in _sums(ways[:middle]):
        for others in by_dropped.values():
            place = bisect_left(others, needed - first.removed, key=lambda other: other.removed)
            if place < len(others):
                yield first.plus(others[place])


def _sums(ways: list[list[_Reduction]]) -> list[_Reduction]:
    """The combinations of the sections' ways; of those with equal costs and numbers of blocks the most even."""
    sums = [_Reduction(0, 0, 0.0, ())]
    for way in ways:
        best: dict[tuple[int, int], _Reduction] = {}
        for made in (so_far.plus(one) for so_far in sums for one in way):
            key = made.removed, made.dropped
            best[key] = min(made, best.get(key, made))
        sums = list(best.values())
        if len(sums) > MOST_SUMS:
            sums = sorted(sums)[:: -(-len(sums) // MOST_SUMS)]
    return sums


def blocks_in_all(depth: int, students: Sequence[tuple[int, list[int]]]) -> int:
    """How many blocks a student of this depth has; the inverse of `depth_of`."""
    whole, most = students[-1]
    layers_per_block = whole - depth_of([sum(most) - 1], students)
    return sum(most) - (whole - depth) // max(layers_per_block, 1)


def depth_of(blocks: Sequence[int], students: Sequence[tuple[int, list[int]]]) -> int:
    """The depth of a student with these blocks per section. `students` are the depths and blocks of some students, the
    network itself last."""
    (least, fewest), (whole, most) = students[0], students[-1]
    layers_per_block = (whole - least) // max(sum(most) - sum(fewest), 1)
    return whole - layers_per_block * (sum(most) - sum(blocks))


def unbeaten(students: Mapping[Key, tuple[float, float]]) -> list[Key]:
    """The front: the students than which no other is at least as good in both numbers and better in one. Larger is
    better."""
    return [
        key
        for key, own in students.items()
        if not any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in students.values())
    ]
