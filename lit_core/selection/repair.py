"""Repairing a student that has inherited its blocks, before its training and without labels: a shift in closed form,
and a few steps of feature mimicking."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, groupby, islice

import torch
from torch import Tensor

from lit_core.data.labels import NO_LABEL
from lit_core.measuring.scores import divergence
from lit_core.networks.block_selection import Inputs, Selection
from lit_core.networks.features import FeatureReader
from lit_core.networks.recorded import recorded_passes
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.shift import gaps_of, shift
from lit_core.networks.state_dicts import load_state
from lit_core.networks.student import shortened
from lit_core.seeding import seeded
from lit_core.training.batch import Batch
from lit_core.training.checkpoint import copy_of_state
from lit_core.training.objectives import FeatureLoss, FeatureObjective
from lit_core.training.taught import Taught
from lit_core.training.updaters import DistillationUpdater
from lit_spec import BatchNorm, Optimizer, Output, Part, Precision, Schedule

DAMAGE_SAMPLES, LEAST_SAMPLES, MOST_PASSES = 256, 32, 2048
"""Samples on which each damage is measured. Networks of many blocks have fewer, so that all damages together take at
most so many passes of one sample, where that leaves enough of them."""
BATCHES_AT_ONCE = 4
"""Batches of a training that are measured in one pass, which keeps nothing for gradients."""
BYTES_AT_ONCE = 8 << 20
"""Of their inputs: what is between the layers for many large images would need much memory."""
MOST_BYTES = 320 << 20
"""Of the inputs that are kept, and of what the teacher makes of them: 512 images of 224 pixels have as much."""
SHIFT_BATCHES = 2
"""Batches of which the means of a shift are taken."""
REPAIR_STEPS = 30
REPAIR_RATE = 2e-4
REPAIR = Schedule(
    optimizer=Optimizer.ADAM, weight_decay=0.0, batch_norm=BatchNorm.FROZEN, dropout=False, gradient_clip=1.0
)


def with_repair(
    selection: Selection, teacher: SectionedNetwork, batches: Iterable[Inputs], output: Output = Output.LOGITS
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

    def __init__(
        self, teacher: SectionedNetwork, batches: Iterable[Inputs], output: Output, *, recorded_bytes: int = 0
    ) -> None:
        """`batches` of training inputs are on the teacher's device. The first of them are kept, one for each step and
        up to `MOST_BYTES`, and of what leaves the teacher's blocks `recorded_bytes` at most. Raises ValueError if there
        are no batches."""
        self.teacher, self.output = teacher, output
        self.batches = list(islice(_within(MOST_BYTES, batches), REPAIR_STEPS))
        if not self.batches:
            raise ValueError("a repair needs data: give at least one batch")
        blocks = sum(map(len, teacher.sections))
        few = list(_first_samples(self.batches, max(LEAST_SAMPLES, min(DAMAGE_SAMPLES, MOST_PASSES // blocks))))
        self._shifted_on = few[:SHIFT_BATCHES]
        self._passes = recorded_passes(teacher, [_joined(group) for group in _alike(few)], recorded_bytes)

    def damage_of(self, student: SectionedNetwork) -> float:
        """How far the student's outputs are from the teacher's: the mean KL divergence in nats, for embeddings 1 -
        cosine."""
        student.network.eval()
        with torch.no_grad():
            return self._damage_in([student.run(*recorded.inputs) for recorded in self._passes])

    def _damage_in(self, outputs: Sequence[Tensor]) -> float:
        """The damage of a student that puts this out, pass by pass. Infinite where that is not finite."""
        total = samples = 0.0
        for output, recorded in zip(outputs, self._passes, strict=True):
            taught = recorded.output.float()
            total += float(divergence(output.float(), taught, self.output)) * len(taught)
            samples += len(taught)
        found = total / samples
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
        lessons = list(self._lessons(objective.feature_loss.reader))
        taught_by_batch = {id(batch): taught for batch, taught in lessons}
        updater = DistillationUpdater(
            objective,
            lambda batch: taught_by_batch[id(batch)],
            student,
            REPAIR,
            frozen=[Part.STEM],
            precision=Precision.FLOAT32,
            masks={},
        )
        for step, (batch, _) in enumerate(islice(cycle(lessons), REPAIR_STEPS)):
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

    @torch.no_grad()
    def _lessons(self, reader: FeatureReader) -> Iterator[tuple[Batch, Taught]]:
        """The batches with what the teacher makes of them, until that is more than `MOST_BYTES`."""
        left = MOST_BYTES
        for group in _alike(self.batches):
            for inputs, taught in self._taught(reader, group):
                yield Batch(inputs, torch.full((len(inputs[0]),), NO_LABEL)), taught
                left -= taught.output.nbytes + taught.features.nbytes
                if left <= 0:
                    return

    def _taught(self, reader: FeatureReader, group: list[Inputs]) -> Iterator[tuple[Inputs, Taught]]:
        # By the network as it is: a program for inference takes longer to make than so few passes.
        output, features = reader.run(self.teacher, *_joined(group))
        if len(group) == 1:
            yield group[0], Taught(output, read_features=features)
            return
        if len(features) != len(output):
            # Some recurrent networks have the layers first, and then the samples.
            yield from (pair for inputs in group for pair in self._taught(reader, [inputs]))
            return
        sizes = [len(inputs[0]) for inputs in group]
        for inputs, *own in zip(group, torch.split(output, sizes), torch.split(features, sizes), strict=True):
            yield inputs, Taught(own[0], read_features=own[1])


def _within(most_bytes: int, batches: Iterable[Inputs]) -> Iterator[Inputs]:
    """The first batches, that together have at most so many bytes, but at least one."""
    left = most_bytes
    for number, inputs in enumerate(batches):
        left -= sum(x.nbytes for x in inputs)
        if left < 0 and number > 0:
            return
        yield inputs


def _alike(batches: Sequence[Inputs]) -> Iterator[list[Inputs]]:
    """Neighbours that can be run together: their samples have one shape, and they are not large."""
    for _, group in groupby(batches, lambda inputs: [x.shape[1:] for x in inputs]):
        alike = list(group)
        number = max(1, min(BATCHES_AT_ONCE, BYTES_AT_ONCE // sum(x.nbytes for x in alike[0])))
        for first in range(0, len(alike), number):
            yield alike[first : first + number]


def _joined(batches: Sequence[Inputs]) -> Inputs:
    """In one batch. One alone is not copied."""
    return batches[0] if len(batches) == 1 else tuple(map(torch.cat, zip(*batches, strict=True)))


def _first_samples(batches: Sequence[Inputs], number: int) -> Iterator[Inputs]:
    """In batches as they are, the last one perhaps smaller. One sample of a larger batch is left out, because there are
    networks that can't take it."""
    left = number
    for inputs in batches:
        if left <= 0 or (left == 1 and len(inputs[0]) > 1):
            return
        yield tuple(x[:left] for x in inputs)
        left -= len(inputs[0])
