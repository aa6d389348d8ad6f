"""Writes a job's output: model, exports, results of `then`, report, pictures, and the bundle of all of these."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from torch import Tensor

from lit_core.exports import Details, write_exports
from lit_core.exports.after_training import write_operations
from lit_core.exports.bundle import write_bundle
from lit_core.exports.folder import export_folder
from lit_core.model import ModelConfig, save
from lit_core.networks.student import student_architecture
from lit_core.report import ShardedTeacher, build_report, measure_baselines, measure_networks
from lit_core.trainer.tensorboard_file import write_tensorboard
from lit_core.training.loop import TrainedStudent
from lit_core.training.task import Task
from lit_spec import Export, JobSpec, Split
from lit_spec import Task as TaskKind
from lit_spec.trainer.folder import REPORT_FILE, WEIGHTS_FILE
from lit_spec.trainer.phases import JobPhase
from lit_spec.trainer.report import Report

CALIBRATION_BATCHES = 2

log = logging.getLogger("trainer")


def write_output(
    output: Path,
    spec: JobSpec,
    trained: TrainedStudent[Task],
    environment: dict[str, str],
    begin: Callable[[JobPhase], None],
    *,
    teacher_file: Path,
    sharded: ShardedTeacher | None = None,
) -> Report:
    """Write everything into the folder `output` and return its report. `begin` is told the phases of this. `sharded` is
    what all processes have measured of a sharded teacher."""
    task, student = trained.task, trained.task.student.network
    architecture = student_architecture(spec, trained.selection.kept_blocks)
    config = ModelConfig(architecture=architecture, preprocessing=task.dataset.preprocessing)
    save(student, config, output)
    files = {"teacher": teacher_file, "student": output / WEIGHTS_FILE}
    networks = measure_networks(task, spec, trained.selection.kept_blocks, files, sharded)
    baselines = measure_baselines(trained)

    def calibration() -> Iterator[tuple[Tensor, ...]]:
        return islice((inputs for inputs, _ in task.batches(Split.TRAIN)), CALIBRATION_BATCHES)

    begin(JobPhase.EXPORTING)
    details = Details(config.metadata, calibration)
    exports = write_exports(
        student,
        [kind for kind in spec.exports if kind != Export.HUGGING_FACE],
        output,
        batches=lambda: task.batches(Split.TEST),
        details=details,
        classifier=spec.teacher.architecture.task == TaskKind.CLASSIFICATION,
    )
    if spec.then:
        begin(JobPhase.AFTER_TRAINING)
    operations = write_operations(task, spec.then, trained.chosen, networks[0], output, details, architecture)
    report = build_report(spec, trained, networks, baselines, exports, operations, environment, sharded)
    if spec.tensorboard and (missing := write_tensorboard(output, spec, trained.epochs)) is not None:
        report.notes.insert(0, missing)
    if Export.HUGGING_FACE in spec.exports:
        # Last, because the model card shows the report.
        report.exports.append(export_folder(output, report, config, student, task.sample(2)))
    task.write_pictures(output)
    (output / REPORT_FILE).write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n")
    write_bundle(output)
    return report
