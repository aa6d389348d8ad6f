"""Runs the job of a plan: measures a range of students and trains none."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from lit_core.data import Dataset
from lit_core.measuring.scores import Prediction, agreement, top1
from lit_core.networks.block_selection import Inputs, Sample
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shallow_architecture
from lit_core.report import rounded, versions
from lit_core.seeding import seeded
from lit_core.selection.plan import (
    Costs,
    file_size,
    measure_costs_of_blocks,
    measured_student,
    students_of_plan,
    with_front,
)
from lit_core.selection.recovery import Recovery
from lit_core.tasks.classification import check_teacher, labelled_answers, measured_accuracy, predict
from lit_core.tasks.library_notes import with_doubts
from lit_core.trainer.plan_picture import write_picture
from lit_core.trainer.supervision import MessageSink, StopSignal
from lit_core.training.loop import Drained
from lit_spec import JobSpec, Output, Split
from lit_spec.networks.students import NANOSECONDS_PER_MS
from lit_spec.requests.plan import PlanOptions
from lit_spec.trainer.folder import PLAN_PICTURE_FILE, REPORT_FILE
from lit_spec.trainer.messages import Progress, StudentMeasured, TeacherMeasured
from lit_spec.trainer.phases import JobPhase
from lit_spec.trainer.plan import PlannedStudent, PlannedTeacher, PlanReport
from lit_spec.trainer.report import BySplit, MeasuredAccuracy, Measures

SPLIT = Split.VALIDATION

log = logging.getLogger("trainer")


@dataclass(frozen=True)
class Planning:
    """What a plan is made of."""

    spec: JobSpec
    options: PlanOptions
    teacher: SectionedNetwork
    dataset: Dataset
    device: torch.device
    sample: Sample
    doubts: Sequence[str] = ()
    """Notes on the preprocessing."""

    @property
    def labelled(self) -> bool:
        return self.dataset.splits[SPLIT].labelled

    @cached_property
    def taught(self) -> Prediction:
        return self._predict(self.teacher.network, SPLIT)

    def labelled_answers(self) -> tuple[Split, Prediction]:
        return labelled_answers(self.dataset, self._taught_on)

    def measure(self, network: nn.Module) -> Measures:
        return self.scores(self._predict(network, SPLIT))

    def scores(self, made: Prediction) -> Measures:
        agreed = BySplit(val=rounded(agreement(made.logits, self.taught.logits)))
        return Measures(agreement=agreed, **({"accuracy": BySplit(val=rounded(top1(made)))} if self.labelled else {}))

    def costs(self) -> Costs:
        return measure_costs_of_blocks(self.teacher, self.sample, self.options.batch, self.spec.precision)

    def _taught_on(self, split: Split) -> Prediction:
        return self.taught if split == SPLIT else self._predict(self.teacher.network, split)

    def _predict(self, network: nn.Module, split: Split) -> Prediction:
        return predict(network, self.dataset, split, self.device, 4 * self.spec.schedule.batch_size)


def run_plan(
    planning: Planning,
    inputs: Iterable[Inputs],
    messages: MessageSink,
    stop: StopSignal,
    environment: dict[str, str],
    output: Path,
) -> PlanReport:
    """Measure the students on batches of training `inputs`, write the report and the picture, and return the report.

    Raises Refused for a teacher that answers no better than chance, and Drained between two students after `stop`
    requested a stop: a plan that was interrupted begins again.
    """
    started = time.monotonic()
    messages.emit(Progress(phase=JobPhase.MEASURING_TEACHER))
    split, answers = planning.labelled_answers()
    checked = check_teacher(answers, split, planning.dataset, planning.spec)
    messages.emit(TeacherMeasured(data=with_doubts(checked, [*planning.doubts])))
    messages.emit(Progress(phase=JobPhase.CHOOSING_BLOCKS))
    with seeded(0):
        costs = planning.costs()
        recovery = Recovery(planning.teacher, inputs, Output.LOGITS)
        log.info("damages: %s", recovery.damages)
        students = list(_students(planning, recovery, costs, messages, stop))
    measured = measured_accuracy(answers, split, planning.spec)
    notes = [*planning.doubts, *([checked["note"]] if "note" in checked else [])]
    seconds = time.monotonic() - started
    report = _report(planning, recovery, costs, students, measured, notes, environment, seconds)
    output.mkdir(exist_ok=True)
    (output / REPORT_FILE).write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n")
    write_picture(report, output / PLAN_PICTURE_FILE)
    return report


def _students(
    planning: Planning, recovery: Recovery, costs: Costs, messages: MessageSink, stop: StopSignal
) -> Iterator[PlannedStudent]:
    students = students_of_plan(recovery, costs, planning.options.students)
    messages.emit(Progress(phase=JobPhase.PLAN, epochs=len(students)))
    for number, kept in enumerate(students, start=1):
        if stop.stop_requested:
            raise Drained
        depth = shallow_architecture(planning.spec.teacher.architecture, kept).depth
        found = measured_student(recovery, kept, costs, planning.options, depth, planning.measure)
        log.info("student %d of %d: %s", number, len(students), found.as_json())
        messages.emit(StudentMeasured(number=number, students=len(students), data=found.as_json()))
        yield found


def _report(
    planning: Planning,
    recovery: Recovery,
    costs: Costs,
    students: list[PlannedStudent],
    measured: MeasuredAccuracy | None,
    notes: list[str],
    environment: dict[str, str],
    seconds: float,
) -> PlanReport:
    spec, dataset, network = planning.spec, planning.dataset, planning.teacher.network
    metric = "accuracy" if planning.labelled else "agreement"
    teacher = PlannedTeacher(
        depth=spec.teacher.architecture.depth,
        blocks=spec.teacher.architecture.blocks,
        parameters=costs.parameters.total,
        flops=costs.flops.total,
        file_size=file_size(network),
        latency_ms=round(costs.latency.total / NANOSECONDS_PER_MS, 4),
        scores=planning.scores(planning.taught),
    )
    return PlanReport(
        **({} if measured is None else {"teacher_accuracy": measured}),
        plan=planning.options,
        metric=metric,
        teacher=teacher,
        students=with_front(students, metric),
        damages=rounded(recovery.damages),
        samples={split: len(arrays.y) for split, arrays in dataset.splits.items()},
        labels={split: arrays.labels for split, arrays in dataset.splits.items()},
        classes=dataset.classes,
        preprocessing=dataset.preprocessing.model_dump(mode="json", exclude={"class_order"}),
        notes=notes,
        environment=environment,
        versions=versions(),
        seconds=round(seconds, 3),
        specification=spec,
    )
