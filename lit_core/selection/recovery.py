"""Choosing the student's blocks by the damage that leaving them out does, and repairing the student: select `recover`.

The damage of a block is how far the network's outputs are from the teacher's on training inputs, without labels, when
this block alone is left out. The student lacks the blocks with the least damage for what they save. It is then repaired
without labels: a shift in closed form, and a few steps of feature mimicking.

The sum of single damages is used, not the damage of whole students: after a repair that was measured on few samples,
whole students looked best that were worst on other samples (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice

import torch

from lit_core.data.labels import NO_LABEL
from lit_core.measuring.scores import divergence
from lit_core.networks.block_selection import Inputs, Selection, first_blocks_stay
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.shift import gaps_of, shift
from lit_core.networks.state_dicts import load_state
from lit_core.networks.student import shortened
from lit_core.training.checkpoint import copy_of_state
from lit_core.training.objectives import Batch, FeatureLoss, FeatureObjective
from lit_core.training.updaters import DistillationUpdater
from lit_spec import BatchNorm, Optimizer, Output, Part, Precision, Schedule

Kept = list[list[int]]
Block = tuple[int, int]
"""Section and index."""

DAMAGE_SAMPLES, LEAST_SAMPLES, MOST_PASSES = 256, 32, 2048
"""Samples on which each damage is measured. Networks of many blocks have fewer, so that all damages together take at
most so many passes of one sample, where that leaves enough of them."""
SHIFT_BATCHES = 2
"""Batches of which the means of a shift are taken."""
REPAIR_STEPS = 30
REPAIR_RATE = 2e-4
REPAIR = Schedule(
    optimizer=Optimizer.ADAM, weight_decay=0.0, batch_norm=BatchNorm.FROZEN, dropout=False, gradient_clip=1.0
)


@dataclass(frozen=True)
class Goal:
    """What a student must be."""

    is_met: Callable[[Kept], bool]
    """Whether a student with these blocks is small enough."""
    saved: Callable[[Kept], float]
    """What a student with these blocks saves, in any unit."""
    least: Sequence[int] | None = None
    """The number of blocks that each section keeps. None: one or more."""


class Recovery:
    """Measures the blocks of one teacher, and repairs its students, all on the same inputs."""

    def __init__(self, teacher: SectionedNetwork, batches: Sequence[Inputs], output: Output) -> None:
        """`batches` of training inputs are on the teacher's device. Raises ValueError if there are none."""
        if not batches:
            raise ValueError("recover needs data: give at least one batch")
        self.teacher, self.batches, self.output = teacher, list(batches), output
        self.whole: Kept = [list(range(len(section))) for section in teacher.sections]
        self.first_stays = first_blocks_stay(teacher, tuple(x[:2] for x in batches[0]))
        blocks = sum(map(len, self.whole))
        self._measured = list(_first_samples(batches, max(LEAST_SAMPLES, min(DAMAGE_SAMPLES, MOST_PASSES // blocks))))
        with torch.no_grad():
            self._taught = [teacher.run(*inputs).float() for inputs in self._measured]
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
        return self._repaired(self._with_what_may_stay(kept, goal))

    def descent(self, saved: Callable[[Kept], float], least: Sequence[int] | None = None) -> Iterator[Kept]:
        """Students of one block less each, the one with the least damage for what it saves first, down to `least`
        blocks of each section, or to one."""
        kept = self.whole
        while blocks := self._removable(kept, least):
            before = saved(kept)
            prices = {block: self._price(block, saved(_without(kept, *block)) - before) for block in blocks}
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
            less = _without(kept, *min(blocks, key=self._damage))
            if not is_allowed(less):
                break
            kept = less
        return None if kept == self.whole else self._repaired(kept)

    def repair(self, student: SectionedNetwork, damage: float) -> bool:
        """In closed form where that helps, then by some steps of feature mimicking; whether that lessened the damage
        that the student has now.

        Blocks that the model fixes, and students whose outputs are not finite, stay as they are.
        """
        if not (student.sections_learn and math.isfinite(damage)):
            return False
        self._shift(student, damage)
        updater = DistillationUpdater(
            FeatureObjective(FeatureLoss(self.output)),
            self.teacher,
            student,
            REPAIR,
            frozen=[Part.STEM],
            precision=Precision.FLOAT32,
            masks={},
        )
        for step, inputs in enumerate(islice(cycle(self.batches), REPAIR_STEPS)):
            batch = Batch(inputs, torch.full((len(inputs[0]),), NO_LABEL))
            updater.step(batch, REPAIR_RATE * (1 - step / REPAIR_STEPS))
        return self.damage_of(student) < damage

    def damage_of(self, student: SectionedNetwork) -> float:
        """How far the student's outputs are from the teacher's: the mean KL divergence in nats, for embeddings 1 -
        cosine."""
        student.network.eval()
        total = 0.0
        with torch.no_grad():
            for inputs, taught in zip(self._measured, self._taught, strict=True):
                total += float(divergence(student.run(*inputs).float(), taught, self.output)) * len(taught)
        found = total / sum(map(len, self._taught))
        return found if math.isfinite(found) else math.inf

    def _damage_of_block(self, section: int, index: int) -> float | None:
        """None for a block that must stay."""
        if not self._may_go(self.whole, section, index, None):
            return None
        return self.damage_of(shortened(self.teacher, _without(self.whole, section, index)))

    def _repaired(self, kept: Kept) -> Selection:
        student = shortened(self.teacher, kept)
        helped = self.repair(student, self.damage_of(student))
        return Selection(kept, damages=self.damages, repaired=copy_of_state(student.network) if helped else None)

    def _shift(self, student: SectionedNetwork, damage: float) -> None:
        """The shift of each gap stays where it lessens the damage."""
        for gap in gaps_of(self.teacher, student):
            block = student.sections[gap.section][gap.place]
            before = copy_of_state(block)
            if not shift(self.teacher, student, gap, self._measured[:SHIFT_BATCHES]):
                continue
            shifted = self.damage_of(student)
            if shifted < damage:
                damage = shifted
            else:
                load_state(block, before)

    # --- which blocks go ---

    def _price(self, block: Block, gain: float) -> tuple[float, float]:
        """The damage for each unit that leaving the block out saves; of equally expensive blocks the damage decides."""
        damage = self._damage(block)
        return (damage / gain if gain > 0 else math.inf), damage

    def _damage(self, block: Block) -> float:
        section, index = block
        return self.damages[section][index] or 0.0

    def _with_what_may_stay(self, kept: Kept, goal: Goal) -> Kept:
        """Take back the most damaging blocks without which the goal is met all the same."""
        missing = [(n, i) for n, own in enumerate(self.whole) for i in own if i not in kept[n]]
        for section, index in sorted(missing, key=self._damage, reverse=True):
            more = [sorted([*own, index]) if n == section else own for n, own in enumerate(kept)]
            if goal.is_met(more):
                kept = more
        return kept

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


def _without(kept: Kept, section: int, index: int) -> Kept:
    return [[i for i in own if (n, i) != (section, index)] for n, own in enumerate(kept)]


def _first_samples(batches: Sequence[Inputs], number: int) -> Iterator[Inputs]:
    left = number
    for inputs in batches:
        if left <= 0:
            return
        yield tuple(x[:left] for x in inputs)
        left -= len(inputs[0])
