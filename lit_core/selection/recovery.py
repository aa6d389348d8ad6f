"""Choosing the student's blocks by the damage that leaving them out does: select `recover`.

The damage of a block is how far the network's outputs are from the teacher's on training inputs, without labels, when
this block alone is left out. The student lacks the blocks with the least damage for what they save.

Neighbours often do more damage together than the sum of both, so a block whose neighbour is missing counts with what it
adds to the neighbour's damage. The damage of whole students is not used: after a repair that was measured on few
samples, whole students looked best that were worst on other samples (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from lit_core.networks.block_selection import Inputs, Selection, first_blocks_stay
from lit_core.networks.recorded import MOST_BYTES
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import view_of
from lit_core.selection.repair import Repair
from lit_spec import Output

Kept = list[list[int]]
Block = tuple[int, int]
"""Section and index."""


@dataclass(frozen=True)
class Goal:
    """What a student must be."""

    is_met: Callable[[Kept], bool]
    """Whether a student with these blocks is small enough."""
    saved: Callable[[Kept], float]
    """What a student with these blocks saves, in any unit."""
    least: Sequence[int] | None = None
    """The number of blocks that each section keeps. None: one or more."""


class Recovery(Repair):
    """Measures the damage of each block of one teacher, and chooses its students."""

    def __init__(self, teacher: SectionedNetwork, batches: Iterable[Inputs], output: Output) -> None:
        """`batches` of training inputs are on the teacher's device. Raises ValueError if there are none."""
        super().__init__(teacher, batches, output, recorded_bytes=MOST_BYTES)
        self.interactions: dict[Block, float] = {}
        """How much more damage a block and the next one do together than each alone, where that was asked for."""
        self.whole: Kept = [list(range(len(section))) for section in teacher.sections]
        self._order: list[Block] = [(section, index) for section, own in enumerate(self.whole) for index in own]
        self.first_stays = first_blocks_stay(teacher, tuple(x[:2] for x in self.batches[0]))
        self.damages = [
            [self._damage_of_block(section, index) for index in indices] for section, indices in enumerate(self.whole)
        ]

    def choose(self, goal: Goal) -> Selection | None:
        """The student that meets the goal with the least damage for what it saves. None if no student meets it."""
        descent = chain([self.whole], self.descent(goal.saved, goal.least))
        kept = next(filter(goal.is_met, descent), None)
        if kept is None:
            # One block of each section is left, but another one may be smaller.
            kept = self.smallest(goal.saved)
            if not goal.is_met(kept):
                return None
        return Selection(self._with_what_may_stay(kept, goal), damages=self.damages)

    def descent(self, saved: Callable[[Kept], float], least: Sequence[int] | None = None) -> Iterator[Kept]:
        """Students of one block less each, the one with the least damage for what it saves first, down to `least`
        blocks of each section, or to one."""
        kept = self.whole
        while blocks := self._removable(kept, least):
            before = saved(kept)
            prices = {
                block: _price(self._added(kept, block), saved(_without(kept, *block)) - before) for block in blocks
            }
            kept = _without(kept, *min(blocks, key=prices.__getitem__))
            yield kept

    def smallest(self, saved: Callable[[Kept], float]) -> Kept:
        """The student with one block of each section that saves most."""
        kept: Kept = [[0] for _ in self.whole]
        for section, indices in enumerate(self.whole):
            able = [0] if self.first_stays[section] else indices
            alone = [[[index] if n == section else own for n, own in enumerate(kept)] for index in able]
            kept = max(alone, key=saved)
        return kept

    def descend(self, is_allowed: Callable[[Kept], bool]) -> Selection | None:
        """The smallest student that is allowed when the least damaging blocks go first. None if there is none."""
        kept = self.whole
        while blocks := self._removable(kept):
            less = _without(kept, *min(blocks, key=partial(self._added, kept)))
            if not is_allowed(less):
                break
            kept = less
        return None if kept == self.whole else Selection(kept, damages=self.damages)

    def _damage_of_block(self, section: int, index: int) -> float | None:
        """None for a block that must stay."""
        if not self._may_go(self.whole, section, index, None):
            return None
        return self._damage_with(_without(self.whole, section, index))

    def _damage_with(self, kept: Kept) -> float:
        """Of the student that has only the `kept` blocks, with the teacher's weights."""
        student = view_of(self.teacher, kept)
        return self._damage_in([recorded.run(student) for recorded in self._passes])

    # --- which blocks go ---

    def _added(self, kept: Kept, block: Block) -> float:
        """The damage that leaving the block out adds in a student that has the `kept` blocks otherwise."""
        alone, place = self._damage(block), self._order.index(block)
        if not math.isfinite(alone):
            return alone
        before, after = self._order[:place][-1:], self._order[place + 1 :][:1]
        added = [self._interaction(near, block) for near in before if not _has(kept, near)]
        added += [self._interaction(block, near) for near in after if not _has(kept, near)]
        return alone + sum(added)

    def _interaction(self, first: Block, second: Block) -> float:
        alone = self._damage(first) + self._damage(second)
        if not math.isfinite(alone):
            return 0.0
        if first not in self.interactions:
            together = self._damage_with(_without(_without(self.whole, *first), *second))
            self.interactions[first] = together - alone
        return self.interactions[first]

    def _damage(self, block: Block) -> float:
        section, index = block
        return self.damages[section][index] or 0.0

    def _with_what_may_stay(self, kept: Kept, goal: Goal) -> Kept:
        """Take back the most damaging blocks with which the goal is met all the same."""
        while True:
            able = {block: more for block in self._order if goal.is_met(more := _with(kept, *block)) and more != kept}
            if not able:
                return kept
            worst = max(able, key=partial(self._added, kept))
            if self._added(kept, worst) <= 0:
                return kept
            kept = able[worst]

    def _removable(self, kept: Kept, least: Sequence[int] | None = None) -> list[Block]:
        """The blocks that a student may lose."""
        return [
            (section, index)
            for section, indices in enumerate(kept)
            for index in indices
            if self._may_go(kept, section, index, least)
        ]

    def _may_go(self, kept: Kept, section: int, index: int, least: Sequence[int] | None) -> bool:
        return len(kept[section]) > (1 if least is None else least[section]) and not (
            index == 0 and self.first_stays[section]
        )


def _price(damage: float, gain: float) -> tuple[float, float]:
    """The damage for each unit that is saved; of equally expensive blocks the damage decides."""
    return (damage / gain if gain > 0 else math.inf), damage


def _has(kept: Kept, block: Block) -> bool:
    section, index = block
    return index in kept[section]


def _with(kept: Kept, section: int, index: int) -> Kept:
    return [sorted({*own, index}) if n == section else own for n, own in enumerate(kept)]


def _without(kept: Kept, section: int, index: int) -> Kept:
    return [[i for i in own if (n, i) != (section, index)] for n, own in enumerate(kept)]
