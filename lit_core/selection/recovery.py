"""Choosing the student's blocks by the damage that leaving out the others does: select `recover`.

The damage of a student is how far its outputs are from the teacher's on training inputs, without labels. First students
are compared as they are when their blocks are left out: all of them where they are few, otherwise block by block, the
least damaging ones first. Then the best of them are repaired by a few steps of training, and the one with the least
damage left is chosen. To judge blocks by what can be recovered is the idea of PRACTISE (Wang and Wu, CVPR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, cycle, islice, product
from math import comb, prod

import torch
from torch import Tensor

from lit_core.data.labels import NO_LABEL
from lit_core.measuring.scores import divergence
from lit_core.networks.block_selection import Selection, TriedBlocks, first_blocks_stay
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.shift import gaps_of, shift
from lit_core.networks.state_dicts import load_state
from lit_core.networks.student import shortened
from lit_core.training.checkpoint import copy_of_state
from lit_core.training.objectives import Batch, FeatureLoss, FeatureObjective
from lit_core.training.updaters import DistillationUpdater
from lit_spec import BatchNorm, Optimizer, Output, Part, Precision, Schedule

Inputs = tuple[Tensor, ...]
Kept = list[list[int]]

DAMAGE_SAMPLES = 256
MOST_COMPARED = 200
"""Students whose damage is measured before any repair. Deep networks lose several blocks at once to stay below it."""
BEAM = 3
"""Students that are kept from round to round, where that does not need more measurements."""
FINALISTS = 2
"""Students that are repaired, beside the evenly spaced one and the best one that keeps the last block."""
REPAIR_STEPS = 20
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
    """What a student with these blocks saves, in any unit. It compares students on the way to the goal."""
    least: Sequence[int] | None = None
    """The number of blocks that each section keeps. None: one or more."""


class Recovery:
    """Measures and repairs students of one teacher, all on the same inputs."""

    def __init__(self, teacher: SectionedNetwork, batches: Sequence[Inputs], output: Output) -> None:
        """`batches` of training inputs are on the teacher's device. Raises ValueError if there are none."""
        if not batches:
            raise ValueError("recover needs data: give at least one batch")
        self.teacher, self.batches, self.output = teacher, list(batches), output
        self.whole: Kept = [list(range(len(section))) for section in teacher.sections]
        self.first_stays = first_blocks_stay(teacher, tuple(x[:2] for x in batches[0]))
        self._measured = list(_first_samples(batches))
        with torch.no_grad():
            self._taught = [teacher.run(*inputs).float() for inputs in self._measured]
        self._damages: dict[str, float] = {}

    def choose(self, goal: Goal, even: Kept | None = None) -> Selection | None:
        """The student with the least damage after its repair. `even` are other blocks that meet the goal and compete.
        None if no student meets the goal."""
        compared = self._all_students(goal.least) if self._are_few(goal) else self._step_by_step(goal)
        return self._best_repaired(self._finalists(compared, even))

    def descend(self, is_allowed: Callable[[Kept], bool]) -> Selection | None:
        """The smallest student that is allowed, block by block the least damaging one first. None if there is none."""
        kept = self.whole
        while following := self._next(kept):
            less = min(following, key=self.damage)
            if not is_allowed(less):
                break
            kept = less
        return None if kept == self.whole else self._best_repaired([kept])

    def _best_repaired(self, finalists: Sequence[Kept]) -> Selection | None:
        tried, states = [], []
        for kept in finalists:
            student = shortened(self.teacher, kept)
            self.repair(student)
            tried.append(TriedBlocks(kept, self.damage(kept), self._damage_of(student)))
            states.append(copy_of_state(student.network))
        if not tried:
            return None
        best = min(range(len(tried)), key=lambda place: tried[place].repaired)
        return Selection(tried[best].kept_blocks, damages=self._single_damages(), tried=tried, repaired=states[best])

    def damage(self, kept: Kept) -> float:
        """Of the student with these blocks, before any repair."""
        key = str(kept)
        if key not in self._damages:
            self._damages[key] = self._damage_of(shortened(self.teacher, kept))
        return self._damages[key]

    def repair(self, student: SectionedNetwork) -> None:
        """In closed form where that helps, then by some steps of feature mimicking."""
        self._shift(student)
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
        student.network.eval()

    def _shift(self, student: SectionedNetwork) -> None:
        """The shift of each gap stays where it lessens the damage."""
        damage = self._damage_of(student)
        for gap in gaps_of(self.teacher, student):
            before = copy_of_state(student.network)
            if not shift(self.teacher, student, gap, self._measured):
                continue
            shifted = self._damage_of(student)
            if shifted < damage:
                damage = shifted
            else:
                load_state(student.network, before)

    @torch.no_grad()
    def _damage_of(self, student: SectionedNetwork) -> float:
        student.network.eval()
        total = 0.0
        for inputs, taught in zip(self._measured, self._taught, strict=True):
            total += float(divergence(student.run(*inputs).float(), taught, self.output)) * len(taught)
        found = total / sum(map(len, self._taught))
        return found if math.isfinite(found) else math.inf

    def single_removals(self) -> list[Kept]:
        """The students with one block less than the teacher."""
        return self._next(self.whole)

    def _single_damages(self) -> list[list[float | None]]:
        return [
            [
                self.damage(_without(self.whole, section, index)) if self._may_go(self.whole, section, index) else None
                for index in indices
            ]
            for section, indices in enumerate(self.whole)
        ]

    def _finalists(self, compared: Sequence[Kept], even: Kept | None) -> list[Kept]:
        ranked = sorted(compared, key=self.damage)
        chosen = ranked[:FINALISTS]
        keep_the_last = [kept for kept in ranked if kept[-1][-1] == self.whole[-1][-1]]
        for kept in [*keep_the_last[:1], *([] if even is None else [even])]:
            if kept not in chosen:
                chosen.append(kept)
        return chosen

    # --- students to compare ---

    def _are_few(self, goal: Goal) -> bool:
        if goal.least is None:
            return False
        counts = [
            comb(len(own) - stays, least - stays)
            for own, least, stays in zip(self.whole, goal.least, self.first_stays, strict=True)
        ]
        return prod(counts) <= MOST_COMPARED

    def _all_students(self, blocks: Sequence[int] | None) -> list[Kept]:
        """All students with so many blocks of each section."""
        choices = [
            [list(kept) for kept in combinations(own, count) if kept[0] == 0 or not stays]
            for own, count, stays in zip(self.whole, blocks or [], self.first_stays, strict=True)
        ]
        return [list(kept) for kept in product(*choices)]

    def _step_by_step(self, goal: Goal) -> list[Kept]:
        """Leave out one block after the other, in each round those with the least damage for what they save."""
        singles = self._next(self.whole, goal)
        removals = self._removals_needed(singles, goal)
        rounds = max(1, MOST_COMPARED // max(len(singles), 1) - 1)
        width, at_once = (min(BEAM, max(1, rounds // removals)), math.ceil(removals / rounds))
        beam, met = [self.whole], []
        while beam:
            reached = _distinct(
                less
                for kept in beam
                for less in (self._next(kept, goal) if at_once == 1 else [self._leave_out(kept, at_once, goal)])
                if less != kept
            )
            met += [kept for kept in reached if goal.is_met(kept)]
            least = min(map(self.damage, met), default=math.inf)
            going_on = [kept for kept in reached if not goal.is_met(kept) and self.damage(kept) < least]
            beam = self._by_damage_per_saving(going_on, goal)[:width]
        return met

    def _removals_needed(self, singles: Sequence[Kept], goal: Goal) -> int:
        """About how many blocks must go: as many as if each did the damage that it does alone."""
        kept, removals = self.whole, 0
        for section, index in self._ranked_blocks(singles, goal):
            if goal.is_met(kept):
                break
            if self._may_go(kept, section, index, goal):
                kept, removals = _without(kept, section, index), removals + 1
        return max(removals, 1)

    def _leave_out(self, kept: Kept, number: int, goal: Goal) -> Kept:
        """Leave out this many of the blocks that do the least damage alone; fewer where that meets the goal."""
        for section, index in self._ranked_blocks(self._next(kept, goal), goal, kept):
            if number > 0 and not goal.is_met(kept) and self._may_go(kept, section, index, goal):
                kept, number = _without(kept, section, index), number - 1
        return kept

    def _ranked_blocks(self, students: Sequence[Kept], goal: Goal, before: Kept | None = None) -> list[tuple[int, int]]:
        """The block that each student lacks against `before` (None: the teacher), the least damaging one first."""
        whole = self.whole if before is None else before
        return [_missing(whole, kept) for kept in self._by_damage_per_saving(students, goal)]

    def _by_damage_per_saving(self, students: Sequence[Kept], goal: Goal) -> list[Kept]:
        return sorted(students, key=lambda kept: self.damage(kept) / max(goal.saved(kept), 1e-12))

    def _next(self, kept: Kept, goal: Goal | None = None) -> list[Kept]:
        """The student with one block less, in every possible way."""
        return [
            _without(kept, section, index)
            for section, indices in enumerate(kept)
            for index in indices
            if self._may_go(kept, section, index, goal)
        ]

    def _may_go(self, kept: Kept, section: int, index: int, goal: Goal | None = None) -> bool:
        least = 1 if goal is None or goal.least is None else goal.least[section]
        return len(kept[section]) > least and not (index == 0 and self.first_stays[section])


def _without(kept: Kept, section: int, index: int) -> Kept:
    return [[i for i in own if (n, i) != (section, index)] for n, own in enumerate(kept)]


def _missing(before: Kept, after: Kept) -> tuple[int, int]:
    """Section and index of a block that `after` lacks."""
    return next((n, i) for n, own in enumerate(before) for i in own if i not in after[n])


def _distinct(students: Iterator[Kept]) -> list[Kept]:
    return list({str(kept): kept for kept in students}.values())


def _first_samples(batches: Sequence[Inputs]) -> Iterator[Inputs]:
    left = DAMAGE_SAMPLES
    for inputs in batches:
        if left <= 0:
            return
        yield tuple(x[:left] for x in inputs)
        left -= len(inputs[0])
