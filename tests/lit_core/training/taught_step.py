"""The losses of a batch, with the teacher run for it."""

from __future__ import annotations

from lit_core.networks.sections import SectionedNetwork
from lit_core.training.batch import Batch
from lit_core.training.objectives import Losses, Objective
from lit_core.training.taught import LiveTeacher


def losses_of(objective: Objective, teacher: SectionedNetwork, student: SectionedNetwork, batch: Batch) -> Losses:
    return objective(LiveTeacher(teacher, objective.needs)(batch), student, batch)
