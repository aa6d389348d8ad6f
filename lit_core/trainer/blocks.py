"""Which blocks the student of a job has: as the request says, or chosen with the teacher and the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from lit_core.data import Dataset
from lit_core.networks.block_selection import Inputs, Selection, first_blocks_stay
from lit_core.networks.families import family_of
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shallow_architecture
from lit_core.selection.blocks import Depth, FixedBlocks, select_blocks
from lit_core.selection.repair import with_repair
from lit_core.selection.targets import Measurements, select_for_target
from lit_core.tasks.classification import validation_drop
from lit_core.trainer.data import importance_inputs, sample_of
from lit_spec import JobSpec
from lit_spec.networks.students import blocks_in_all
from lit_spec.requests.student import check_kept
from lit_spec.trainer.phases import JobPhase


def choose_blocks(
    spec: JobSpec, teacher: SectionedNetwork, dataset: Dataset, device: torch.device, begin: Callable[[JobPhase], None]
) -> Selection:
    """The student's blocks, and its repaired weights if it is to be repaired. Raises SpecError for blocks of which one
    that must stay is missing, and for a target that no student reaches."""
    begin(JobPhase.CHOOSING_BLOCKS if spec.student.target is None else JobPhase.SEARCHING_TARGET)
    selection = _chosen_blocks(spec, teacher, dataset, device, importance_inputs(spec, dataset, device))
    if not spec.student.repair:
        return selection
    begin(JobPhase.REPAIRING)
    return with_repair(selection, teacher, importance_inputs(spec, dataset, device))


def _chosen_blocks(
    spec: JobSpec, teacher: SectionedNetwork, dataset: Dataset, device: torch.device, inputs: Iterator[Inputs]
) -> Selection:
    student = spec.student
    if student.select is None:
        kept = student.kept or []
        check_kept(kept, spec.teacher.architecture.blocks, first_blocks_stay(teacher, next(inputs)), "student.kept")
        return Selection(kept)
    if student.blocks is not None:
        return select_blocks(teacher, FixedBlocks(student.blocks), student.select, inputs)
    if student.target is None:
        architecture = spec.teacher.architecture
        total = blocks_in_all(student.depth or 0, family_of(architecture).students(architecture))
        return select_blocks(teacher, Depth(total), student.select, inputs)
    measurements = Measurements(
        sample=lambda batch: sample_of(spec, dataset, device, batch),
        precision=spec.precision,
        drop=validation_drop(teacher.network, dataset, device, 4 * spec.schedule.batch_size),
    )
    # The request may have named a ratio of parameters in two ways.
    field = "student" if student.target.parameters_ratio is not None else "student.target"
    return select_for_target(teacher, student.target, student.select, inputs, measurements, field)


def with_student(spec: JobSpec, selection: Selection) -> JobSpec:
    """The specification with the student that was chosen."""
    chosen = shallow_architecture(spec.teacher.architecture, selection.kept_blocks)
    update = {"depth": chosen.depth, "blocks": chosen.blocks}
    return spec.model_copy(update={"student": spec.student.model_copy(update=update)})
