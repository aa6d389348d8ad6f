"""The students that a network may have, and how many parameters each has."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

from pydantic import Field

from lit_spec.base import SpecModel

MOST_SUMS = 4_000
"""Up to this many different sums in each half of the sections, the search of `least_reduced` is exact."""


class StudentOption(SpecModel):
    """A possible student, and what it would save."""

    depth: int
    blocks: list[int]
    parameters: int
    parameters_ratio: float
    """Teacher / student."""


class SharedParameters(SpecModel):
    """Parameters that several blocks have in common, and nothing outside of these blocks has."""

    blocks: list[tuple[int, int]]
    """Section and index of each block."""
    parameters: int


class ParameterCounts(SpecModel):
    """Where a network's parameters are, each counted once."""

    total: int
    blocks: list[list[int]]
    """Of each block of each section the parameters that only this block has."""
    shared: list[SharedParameters] = Field(default_factory=list)

    def left(self, kept_blocks: Sequence[Sequence[int]]) -> int:
        """How many parameters are left in a student with these blocks of each section."""
        gone = sum(
            count
            for counts, kept in zip(self.blocks, kept_blocks, strict=True)
            for index, count in enumerate(counts)
            if index not in kept
        )
        for group in self.shared:
            if not any(index in kept_blocks[section] for section, index in group.blocks):
                gone += group.parameters
        return self.total - gone

    def evenly_left(self, blocks: Sequence[int]) -> int:
        """How many are left in a student with so many evenly spaced blocks of each section."""
        return self.left([evenly(len(counts), wanted) for counts, wanted in zip(self.blocks, blocks, strict=True)])

    def student(self, depth: int, blocks: Sequence[int]) -> StudentOption:
        """What a student of evenly spaced blocks saves."""
        left = self.evenly_left(blocks)
        # Rounded down, so that this student satisfies a request for this ratio.
        ratio = self.total * 1000 // left / 1000
        return StudentOption(depth=depth, blocks=list(blocks), parameters=left, parameters_ratio=ratio)


def evenly(teacher_blocks: int, student_blocks: int) -> list[int]:
    """Indices of evenly spaced blocks, the first block included."""
    return [i * teacher_blocks // student_blocks for i in range(student_blocks)]


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
    """Parameters."""
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


def least_reduced(counts: ParameterCounts, ratio: float) -> list[int] | None:
    """The blocks per section of the deepest student that has at least `ratio` times fewer parameters than the network,
    of several the one with the most parameters. Of each section the blocks are evenly spaced. None if the smallest
    student has more.

    All numbers of blocks per section are compared. Of several students with equally many blocks and parameters it is
    the one whose blocks are shared as for a `depth`, then the one with the most even shares. In networks with very
    many sections and sizes of blocks, some sums of parameters are left out of the search, so another student may be a
    little deeper or have a few more parameters. The same holds where blocks of several sections share parameters, which
    the search counts as kept.
    """
    total, blocks = counts.total, [len(section) for section in counts.blocks]
    needed = bisect_left(range(total + 1), True, key=lambda removed: total >= ratio * (total - removed))
    enough = [reduction for reduction in _evenly_shared(counts, blocks) if reduction.removed >= needed]
    least = min(_reductions(_reductions_by_section(counts, blocks), needed), default=None)
    if least is not None:
        # Without what its sections share, if that goes as well.
        enough.append(least._replace(removed=total - counts.evenly_left(_without(blocks, least))))
    return _without(blocks, min(enough)) if enough else None


def _without(blocks: list[int], reduction: _Reduction) -> list[int]:
    return [whole - dropped for whole, dropped in zip(blocks, reduction.by_section, strict=True)]


def _evenly_shared(counts: ParameterCounts, blocks: list[int]) -> Iterator[_Reduction]:
    for depth in range(len(blocks), sum(blocks) + 1):
        student = counts.student(depth, own := shares(blocks, depth))
        by_section = tuple(whole - left for whole, left in zip(blocks, own, strict=True))
        # Less than any unevenness, so that it is taken where others have as many parameters.
        yield _Reduction(sum(by_section), counts.total - student.parameters, -1.0, by_section)


def _reductions_by_section(counts: ParameterCounts, blocks: list[int]) -> list[list[_Reduction]]:
    """For each section the loss of 0, 1, … of its blocks."""
    ways: list[list[_Reduction]] = []
    for section, whole in enumerate(blocks):
        kept = [list(range(count)) for count in blocks]
        ways.append([])
        for dropped in range(whole):
            kept[section] = evenly(whole, whole - dropped)
            ways[-1].append(_Reduction(dropped, counts.total - counts.left(kept), dropped**2 / whole, (dropped,)))
    return ways


def _reductions(ways: list[list[_Reduction]], needed: int) -> Iterator[_Reduction]:
    """Reductions of all sections by at least `needed` parameters. For each number of blocks, the least is among them.

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
    """The combinations of the sections' ways; of those with equal numbers of parameters and blocks the most even."""
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
