"""`python -m lit_core.trainer FOLDER`: the trainer of one job.

FOLDER holds spec.json, run.json, teacher.safetensors, perhaps discriminator.safetensors, the data set (unless built in)
and, to resume, checkpoint.pt.
Events leave as JSON lines on standard output; FOLDER/output holds the results at the end. Exit codes: 0 finished or
drained, 1 failed with an event that says why, 75 ended by its deadline.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import platform
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

# Before torch is loaded: cuBLAS is deterministic only with a workspace of fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from lit_core.compression import Made, make_student
from lit_core.data import Dataset, DatasetError, Interface, load_dataset
from lit_core.exports import write_exports
from lit_core.exports.after_training import write_steps
from lit_core.exports.bundle import write_bundle
from lit_core.exports.folder import export_folder
from lit_core.measuring.cost import count_parameters, is_out_of_memory
from lit_core.model import WEIGHTS_FILE, ModelConfig, save
from lit_core.networks.block_selection import Selection
from lit_core.networks.discovery import check_trains
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import build_student, student_architecture
from lit_core.networks.teacher import build_network, build_teacher, meta_network
from lit_core.report import build_report, measure_networks, summary, versions
from lit_core.tasks.classification import Classification
from lit_core.trainer.devices import cuda_fault
from lit_core.trainer.supervision import Events, Watch
from lit_core.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lit_core.training.loop import Diverged, Drained
from lit_core.training.task import Refused, Task
from lit_spec import ErrorType, Export, JobError, JobSpec, Method, Phase, SpecModel, Split
from lit_spec import Task as TaskKind

log = logging.getLogger("trainer")


IMPORTANCE_SAMPLES = 512
CALIBRATION_BATCHES = 2


class Run(SpecModel):
    """run.json: what the worker decides, not the person."""

    device: str
    threads: int | None = None
    attempt: int = 1
    datasets: Path | None = None
    """The folder of mounted data sets."""
    datasets_download: bool = False
    feature_network: Path | None = None
    """What generators' images are compared with real ones by."""


class Reporter:
    """Turns a training's news into events and files."""

    def __init__(self, events: Events, watch: Watch, folder: Path) -> None:
        self.events = events
        self.watch = watch
        self.folder = folder

    def epoch(self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float]) -> None:
        log.info(
            "%s epoch %d/%d: %s", phase, epoch, epochs, ", ".join(f"{name} {v:.4g}" for name, v in metrics.items())
        )
        place = {"phase": phase.value, "epoch": epoch, "epochs": epochs, "fraction": fraction}
        self.events.emit({"type": "epoch", **place, "metrics": metrics})

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(checkpoint, self.folder / "checkpoint.pt")
        position = checkpoint.position
        place = {"phase": position.phase.value, "epoch": position.epoch, "step": position.step}
        self.events.emit({"type": "checkpoint", **place})

    def stop_requested(self) -> bool:
        return self.watch.stop_requested


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lit_core.trainer", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--supervised", action="store_true", help="end without deadlines on standard input")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    events, watch = Events(), Watch()
    watch.start(supervised=arguments.supervised)
    reporter = Reporter(events, watch, arguments.folder)
    try:
        result = train(arguments.folder, reporter)
    except Drained:
        log.info("drained")
        events.emit({"type": "drained"})
        return 0
    except (Refused, DatasetError, Diverged, MemoryError, RuntimeError) as failure:
        error = _job_error(failure)
        if error is None:
            raise
        log.error("%s: %s", error.type, error.detail)
        events.emit({"type": "failed", "error": error.model_dump(mode="json")})
        return 1
    events.emit({"type": "finished", "result": result})
    return 0


def train(folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Run the job in `folder` and return its result."""
    spec = JobSpec.model_validate_json((folder / "spec.json").read_bytes())
    run = Run.model_validate_json((folder / "run.json").read_bytes())
    device = _prepare_torch(run)
    environment = _environment(run, spec)
    reporter.events.emit({"type": "started", "data": {"environment": environment, "versions": versions()}})
    teacher = build_teacher(spec.teacher.architecture, folder / "teacher.safetensors")
    teacher.network.to(device)
    dataset = _load_dataset(spec, run, folder)
    _check_size(teacher, dataset)
    checkpoint = _read_checkpoint(folder / "checkpoint.pt")
    if checkpoint is not None:
        log.info("resuming at %s", checkpoint.position)

    def task_of(student: SectionedNetwork, selection: Selection) -> Task:
        log.info("blocks kept: %s, importance: %s", selection.kept, selection.importance)
        task = _make_task(spec, run, teacher, student, dataset, device, folder, selection)
        found = task.check()
        log.info("teacher: %s", found)
        reporter.events.emit({"type": "teacher_measured", "data": found})
        return task

    made = make_student(
        teacher,
        spec.student.blocks,
        spec.student.select,
        _seen(spec, dataset, device),
        spec,
        reporter,
        task_of=task_of,
        student_of=lambda teacher, kept: build_student(teacher, spec, kept),
        environment=environment,
        checkpoint=checkpoint,
        attempt=run.attempt,
    )
    return _write_output(folder, spec, made, environment)


def _read_checkpoint(path: Path) -> Checkpoint | None:
    """None to begin anew: a checkpoint that can't be read costs its training, as a lost one does, but not the job."""
    if not path.exists():
        return None
    try:
        return load_checkpoint(path)
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError) as failure:
        log.warning("the checkpoint can't be read, so the training begins anew: %s", failure)
        return None


def _check_size(teacher: SectionedNetwork, dataset: Dataset) -> None:
    """Raises Refused when a library's network can't take images of the data's size."""
    preprocessing = dataset.preprocessing
    if preprocessing.kind != "image" or teacher.looked_through_with is None:
        return
    try:
        with torch.no_grad():
            x = preprocessing.sample(2).to(next(teacher.network.parameters()).device)
            teacher.network(x)
            check_trains(teacher.network, x)
    except Exception as failure:
        if is_out_of_memory(failure):
            raise
        what = f"the teacher can't take images of {preprocessing.size} pixels ({failure})"
        known = teacher.looked_through_with
        if preprocessing.size == known:
            # It has been run on such images, but without values: it is something else that doesn't fit.
            error = JobError(type=ErrorType.BAD_TEACHER, detail=what, field="architecture.kwargs")
        else:
            detail = f"{what}: set dataset.size, to {known} for one"
            error = JobError(type=ErrorType.BAD_DATASET, detail=detail, field="dataset.size")
        raise Refused(error) from failure


def _seen(spec: JobSpec, dataset: Dataset, device: torch.device) -> Iterator[tuple[torch.Tensor]]:
    """What the importance of blocks is seen by."""
    x = dataset.splits[Split.TRAIN].x
    # Spread out, because samples often lie sorted by their classes.
    rows = torch.arange(min(IMPORTANCE_SAMPLES, len(x))) * len(x) // min(IMPORTANCE_SAMPLES, len(x))
    for part in torch.split(rows, spec.schedule.batch_size):
        yield (dataset.preprocessing.apply(x[part].to(device)),)


def _prepare_torch(run: Run) -> torch.device:
    if run.device == "cuda" and (fault := cuda_fault()) is not None:
        detail = f"the worker was asked to train on cuda, but torch can't use it there: {fault}"
        raise Refused(JobError(type=ErrorType.DEVICE_UNAVAILABLE, detail=detail, field="device"))
    if run.threads:
        torch.set_num_threads(run.threads)
    # On the CPU everything that is used here has a deterministic form; on CUDA the rest is warned about in the log.
    torch.use_deterministic_algorithms(True, warn_only=run.device == "cuda")
    return torch.device(run.device)


def _environment(run: Run, spec: JobSpec) -> dict[str, str]:
    """What must be the same for two runs to have the same bits."""
    device = torch.cuda.get_device_name() if run.device == "cuda" else "cpu"
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "device": device,
        "cpu": f"{_processor()} ({capability})",
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "precision": spec.precision.value,
    }


def _processor() -> str:
    """The model's name: kernels may be chosen, and rounded, by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _load_dataset(spec: JobSpec, run: Run, folder: Path) -> Dataset:
    path = run.datasets if spec.dataset.mounted else folder / "dataset"
    interface = Interface.of(spec.teacher.architecture)
    dataset = load_dataset(spec.dataset, spec.augmentation, path, interface, download=run.datasets_download)
    samples = {split.value: len(arrays.y) for split, arrays in dataset.splits.items()}
    log.info("data set: %s, classes %s", samples, dataset.classes)
    if samples[Split.TRAIN.value] < 2:
        detail = f"the train split has {samples[Split.TRAIN.value]} sample: training needs 2 at least"
        raise Refused(JobError(type=ErrorType.BAD_DATASET, detail=detail, field="dataset"))
    return dataset


def _make_task(
    spec: JobSpec,
    run: Run,
    teacher: SectionedNetwork,
    student: SectionedNetwork,
    dataset: Dataset,
    device: torch.device,
    folder: Path,
    selection: Selection,
) -> Task:
    if spec.teacher.architecture.task == TaskKind.TRANSLATION:
        # torchmetrics takes seconds that classifiers needn't wait.
        from lit_core.measuring.gan_scores import load_feature_network
        from lit_core.tasks.translation import Translation

        feature = None if run.feature_network is None else load_feature_network(run.feature_network).to(device)
        discriminator = _discriminator(spec, device, folder)
        return Translation(spec, teacher, student, dataset, device, discriminator=discriminator, feature=feature)
    size = count_parameters(student.network)
    if spec.method == Method.PRUNE:
        shallow = spec.model_copy(update={"method": Method.LIT})
        size = count_parameters(meta_network(student_architecture(shallow, selection.kept)))
    return Classification(spec, teacher, student, dataset, device, student_parameters=size)


def _discriminator(spec: JobSpec, device: torch.device, folder: Path) -> torch.nn.Module | None:
    if spec.discriminator is None:
        return None
    return build_network(spec.discriminator.architecture, folder / "discriminator.safetensors").to(device)


def _write_output(folder: Path, spec: JobSpec, made: Made[Task], environment: dict[str, str]) -> dict[str, Any]:
    task, student = made.task, made.task.student.network
    output = folder / "output"
    architecture = student_architecture(spec, made.training.selection.kept)
    config = ModelConfig(architecture=architecture, preprocessing=task.dataset.preprocessing)
    save(student, config, output)
    files = {"teacher": folder / "teacher.safetensors", "student": output / WEIGHTS_FILE}
    measured = measure_networks(task, files)
    calibration = lambda: islice((inputs for inputs, _ in task.batches(Split.TRAIN)), CALIBRATION_BATCHES)  # noqa: E731
    exports = write_exports(
        student,
        [kind for kind in spec.exports if kind != Export.HUGGING_FACE],
        output,
        batches=lambda: task.batches(Split.TEST),
        calibration=calibration,
        classifier=spec.teacher.architecture.task == TaskKind.CLASSIFICATION,
    )
    steps = write_steps(task, spec.then, made.chosen, measured["teacher"], output, calibration)
    report = build_report(spec, task, made.training, made.chosen[0], measured, exports, steps, environment)
    if Export.HUGGING_FACE in spec.exports:
        report["exports"].append(export_folder(output, report, config, student, task.sample(2)))
    task.write_pictures(output)
    (output / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_bundle(output)
    result = summary(report)
    log.info("result: %s", result)
    return result


def _job_error(failure: Exception) -> JobError | None:
    """The typed error of a failure that a person can do something about; None for a bug."""
    if isinstance(failure, Refused):
        return failure.error
    if isinstance(failure, DatasetError):
        return JobError(
            type=ErrorType.BAD_DATASET, detail=failure.detail, field=failure.field or "dataset", member=failure.member
        )
    if isinstance(failure, Diverged):
        detail = f"{failure}: lower schedule.lit.learning_rate or schedule.fine_tune.learning_rate"
        return JobError(type=ErrorType.DIVERGED, detail=detail, field="schedule")
    if is_out_of_memory(failure):
        detail = "the worker's memory is too small for this job: lower schedule.batch_size, or use a larger worker"
        return JobError(type=ErrorType.OUT_OF_MEMORY, detail=detail, field="schedule.batch_size")
    return None


if __name__ == "__main__":
    sys.exit(main())
