"""Repairing a student that has inherited its blocks, before its training and without labels: a shift in closed form,
and a few steps of feature mimicking."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, groupby, islice

import torch
from torch import Tensor

from lit_core.data.labels import NO_LABEL
from lit_core.measuring.scores import divergence
from lit_core.networks.block_selection import Inputs, Selection
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.shift import gaps_of, shift
from lit_core.networks.state_dicts import load_state
from lit_core.networks.student import shortened
from lit_core.seeding import seeded
from lit_core.training.batch import Batch
from lit_core.training.checkpoint import copy_of_state
from lit_core.training.objectives import FeatureLoss, FeatureObjective
from lit_core.training.taught import LiveTeacher, Taught, Teacher
from lit_core.training.updaters import DistillationUpdater
from lit_spec import BatchNorm, Optimizer, Output, Part, Precision, Schedule

DAMAGE_SAMPLES, LEAST_SAMPLES, MOST_PASSES = 256, 32, 2048
"""Samples on which each damage is measured. Networks of many blocks have fewer, so that all damages together take at
most so many passes of one sample, where that leaves enough of them."""
BATCHES_AT_ONCE = 4
"""Batches of a training that are measured in one pass, which keeps nothing for gradients."""
BYTES_AT_ONCE = 8 << 20
"""Of their inputs: what is between the layers for many large images would need much memory."""
SHIFT_BATCHES = 2
"""Batches of which the means of a shift are taken."""
REPAIR_STEPS = 30
REPAIR_RATE = 2e-4
REPAIR = Schedule(
    optimizer=Optimizer.ADAM, weight_decay=0.0, batch_norm=BatchNorm.FROZEN, dropout=False, gradient_clip=1.0
)


def with_repair(
    selection: Selection, teacher: SectionedNetwork, batches: Sequence[Inputs], output: Output = Output.LOGITS
) -> Selection:
    """The selection with the weights of its repaired student, if the repair brought it closer to the teacher.

    `batches` of training inputs are on the teacher's device; `output` is what the network puts out. Raises ValueError
    if there are no batches.
    """
    with seeded(0):
        # Networks and repairs may draw random numbers, and nothing that is drawn later depends on that.
        repair = Repair(teacher, batches, output)
        student = shortened(teacher, selection.kept_blocks)
        helped = repair.repair(student, repair.damage_of(student))
    return replace(selection, repaired=copy_of_state(student.network) if helped else None)


class Repair:
    """Measures and repairs the students of one teacher, all on the same inputs."""

    def __init__(self, teacher: SectionedNetwork, batches: Sequence[Inputs], output: Output) -> None:
        """`batches` of training inputs are on the teacher's device. Raises ValueError if there are none."""
        if not batches:
            raise ValueError("a repair needs data: give at least one batch")
        self.teacher, self.batches, self.output = teacher, list(batches), output
        blocks = sum(map(len, teacher.sections))
        few = list(_first_samples(batches, max(LEAST_SAMPLES, min(DAMAGE_SAMPLES, MOST_PASSES // blocks))))
        self._shifted_on = few[:SHIFT_BATCHES]
        self._measured = list(_joined(few))
        with torch.no_grad():
            self._taught = [teacher.run(*inputs).float() for inputs in self._measured]

    def damage_of(self, student: SectionedNetwork) -> float:
        """How far the student's outputs are from the teacher's: the mean KL divergence in nats, for embeddings 1 -
        cosine."""
        student.network.eval()
        with torch.no_grad():
            return self._damage_in([student.run(*inputs) for inputs in self._measured])

    def _damage_in(self, outputs: Sequence[Tensor]) -> float:
        """The damage of a student that puts this out, pass by pass. Infinite where that is not finite."""
        total = 0.0
        for output, taught in zip(outputs, self._taught, strict=True):
            total += float(divergence(output.float(), taught, self.output)) * len(taught)
        found = total / sum(map(len, self._taught))
        return found if math.isfinite(found) else math.inf

    def repair(self, student: SectionedNetwork, damage: float) -> bool:
        """In closed form where that helps, then by some steps of feature mimicking; whether that lessened the damage
        that the student has now. Steps that do harm are taken back.

        Blocks that the model fixes, and students whose outputs are not finite, stay as they are.
        """
        if not (student.sections_learn and math.isfinite(damage)):
            return False
        shifted = self._shift(student, damage)
        before = copy_of_state(student.network)
        objective = FeatureObjective(FeatureLoss(self.output))
        updater = DistillationUpdater(
            objective,
            _Remembering(LiveTeacher(self.teacher, objective.needs)),
            student,
            REPAIR,
            frozen=[Part.STEM],
            precision=Precision.FLOAT32,
            masks={},
        )
        batches = [Batch(inputs, torch.full((len(inputs[0]),), NO_LABEL)) for inputs in self.batches[:REPAIR_STEPS]]
        for step, batch in enumerate(islice(cycle(batches), REPAIR_STEPS)):
            updater.step(batch, REPAIR_RATE * (1 - step / REPAIR_STEPS))
        repaired = self.damage_of(student)
        if repaired >= shifted:
            load_state(student.network, before)
        return min(repaired, shifted) < damage

    def _shift(self, student: SectionedNetwork, damage: float) -> float:
        """The damage afterwards: the shift of each gap stays where it lessens it."""
        for gap in gaps_of(self.teacher, student):
            block = student.sections[gap.section][gap.place]
            before = copy_of_state(block)
            if not shift(self.teacher, student, gap, self._shifted_on):
                continue
            shifted = self.damage_of(student)
            if shifted < damage:
                damage = shifted
            else:
                load_state(block, before)
        return damage


class _Remembering:
    """Runs the teacher once for each batch, whose object stays alive meanwhile."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._taught: dict[int, Taught] = {}

    def __call__(self, batch: Batch) -> Taught:
        if id(batch) not in self._taught:
            self._taught[id(batch)] = self._teacher(batch)
        return self._taught[id(batch)]


def _joined(batches: Sequence[Inputs]) -> Iterator[Inputs]:
    """Several batches in one, as far as neighbours have samples of one shape."""
    for _, group in groupby(batches, lambda inputs: [x.shape[1:] for x in inputs]):
        alike = list(group)
        number = max(1, min(BATCHES_AT_ONCE, BYTES_AT_ONCE // sum(x.nbytes for x in alike[0])))
        for first in range(0, len(alike), number):
            yield tuple(map(torch.cat, zip(*alike[first : first + number], strict=True)))


def _first_samples(batches: Sequence[Inputs], number: int) -> Iterator[Inputs]:
    """In batches as they are, the last one perhaps smaller. One sample of a larger batch is left out, because there are
    networks that can't take it."""
    left = number
    for inputs in batches:
        if left <= 0 or (left == 1 and len(inputs[0]) > 1):
            return
        yield tuple(x[:left] for x in inputs)
        left -= len(inputs[0])
