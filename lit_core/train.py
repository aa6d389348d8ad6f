"""`python -m lit_core.train FOLDER`: the trainer of one job.

FOLDER holds spec.json, run.json, teacher.safetensors, the data set (unless built in) and, to resume, checkpoint.pt.
Events leave as JSON lines on standard output; FOLDER/output holds the results at the end. Exit codes: 0 finished or
drained, 1 failed with an event that says why, 75 ended by its deadline.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

# Before torch is loaded: cuBLAS is deterministic only with a workspace of fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from lit_core.checkpoint import Best, Checkpoint, load_checkpoint, save_checkpoint
from lit_core.data import Dataset, DatasetError, load_dataset
from lit_core.measure import Accuracy, accuracy, near_chance
from lit_core.model import WEIGHTS_FILE, ModelConfig, save
from lit_core.report import build_report, measure_networks, summary, versions
from lit_core.sections import SectionedNetwork
from lit_core.spec import ErrorType, JobError, JobSpec, Model, Phase, Split
from lit_core.student import build_student, student_architecture
from lit_core.supervision import Events, Watch
from lit_core.teacher import build_teacher
from lit_core.training import Diverged, Drained, Training

log = logging.getLogger("trainer")


class Run(Model):
    """run.json: what the worker decides, not the person."""

    device: str
    threads: int | None = None
    attempt: int = 1


class JobFailed(Exception):
    def __init__(self, error: JobError) -> None:
        super().__init__(error.detail)
        self.error = error


class Reporter:
    """Turns a training's news into events and files."""

    def __init__(self, events: Events, watch: Watch, folder: Path) -> None:
        self.events = events
        self.watch = watch
        self.folder = folder

    def epoch(self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float]) -> None:
        log.info(
            "%s epoch %d/%d: student %.2f %%, teacher %.2f %%, loss %.4g, %.1f s",
            phase,
            epoch,
            epochs,
            metrics["student_accuracy"],
            metrics["teacher_accuracy"],
            metrics["loss"],
            metrics["seconds"],
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
    parser = argparse.ArgumentParser(prog="python -m lit_core.train", description=__doc__)
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
    except (JobFailed, DatasetError, Diverged, MemoryError, RuntimeError) as failure:
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
    dataset = _load_dataset(spec, folder)
    measured = _measure_teacher(teacher, dataset, device, reporter)
    student = build_student(teacher, spec.teacher.architecture, spec.student, spec.seed).to(device)
    training = Training(
        spec,
        teacher,
        student,
        dataset,
        device,
        reporter,
        teacher_accuracy=measured.top1,
        environment=environment,
    )
    if (folder / "checkpoint.pt").exists():
        training.restore(load_checkpoint(folder / "checkpoint.pt"), run.attempt)
        log.info("resumed at %s", training.position)
    best = training.run()
    return _write_output(folder, spec, teacher, training, best, environment)


def _prepare_torch(run: Run) -> torch.device:
    if run.device == "cuda" and not torch.cuda.is_available():
        detail = "the worker was asked to train on cuda, but torch finds no usable GPU there"
        raise JobFailed(JobError(type=ErrorType.DEVICE_UNAVAILABLE, detail=detail, field="device"))
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
        "cpu_capability": capability,
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "precision": spec.precision.value,
    }


def _load_dataset(spec: JobSpec, folder: Path) -> Dataset:
    architecture = spec.teacher.architecture
    path = None if spec.dataset.builtin else folder / "dataset"
    dataset = load_dataset(
        spec.dataset, spec.augmentation, path, channels=architecture.channels, classes=architecture.classes
    )
    samples = {split.value: len(arrays.y) for split, arrays in dataset.splits.items()}
    log.info("data set: %s, classes %s", samples, dataset.classes)
    if samples[Split.TRAIN.value] < 2:
        detail = f"the train split has {samples[Split.TRAIN.value]} sample: training needs 2 at least"
        raise JobFailed(JobError(type=ErrorType.BAD_DATASET, detail=detail, field="dataset"))
    return dataset


def _measure_teacher(teacher: SectionedNetwork, dataset: Dataset, device: torch.device, reporter: Reporter) -> Accuracy:
    measured = accuracy(teacher.network, dataset, Split.VALIDATION, device)
    data = {"split": Split.VALIDATION.value, "accuracy": measured.top1, "chance": measured.chance}
    reporter.events.emit({"type": "teacher_measured", "data": data})
    log.info("the teacher reaches %.2f %% on the validation split (chance %.2f %%)", measured.top1, measured.chance)
    if near_chance(measured):
        preprocessing = dataset.preprocessing
        detail = (
            f"the teacher reaches {measured.top1:.1f} % on the validation split, where always answering the most "
            f"frequent class gives {measured.chance:.1f} %. Check that the preprocessing is the one that the teacher "
            f"was trained with (here size {preprocessing.size}, mean {_short(preprocessing.mean)}, "
            f"std {_short(preprocessing.std)}: dataset.size, dataset.mean, dataset.std), and that the class order "
            f"(here {', '.join(dataset.classes[:10])}: dataset.class_order) is that of its outputs"
        )
        raise JobFailed(JobError(type=ErrorType.TEACHER_NEAR_CHANCE, detail=detail, field="dataset"))
    return measured


def _short(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _write_output(
    folder: Path,
    spec: JobSpec,
    teacher: SectionedNetwork,
    training: Training,
    best: Best,
    environment: dict[str, str],
) -> dict[str, Any]:
    dataset, device = training.dataset, training.device
    student = training.student.network
    student.load_state_dict(best.state)
    output = folder / "output"
    config = ModelConfig(
        architecture=student_architecture(spec.teacher.architecture, spec.student),
        preprocessing=dataset.preprocessing,
    )
    save(student, config, output)
    files = {"teacher": folder / "teacher.safetensors", "student": output / WEIGHTS_FILE}
    measured = measure_networks({"teacher": teacher.network, "student": student}, files, dataset, device)
    report = build_report(spec, dataset, training, best, measured, environment)
    (output / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    log.info("test split: %s", {name: found["accuracy"]["test"] for name, found in measured.items()})
    return summary(report)


def _job_error(failure: Exception) -> JobError | None:
    """The typed error of a failure that a person can do something about; None for a bug."""
    if isinstance(failure, JobFailed):
        return failure.error
    if isinstance(failure, DatasetError):
        return JobError(
            type=ErrorType.BAD_DATASET, detail=failure.detail, field=failure.field or "dataset", member=failure.member
        )
    if isinstance(failure, Diverged):
        detail = f"{failure}: lower schedule.lit.learning_rate or schedule.fine_tune.learning_rate"
        return JobError(type=ErrorType.DIVERGED, detail=detail, field="schedule")
    if isinstance(failure, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(failure):
        detail = "the worker's memory is too small for this job: lower schedule.batch_size, or use a larger worker"
        return JobError(type=ErrorType.OUT_OF_MEMORY, detail=detail, field="schedule.batch_size")
    return None


if __name__ == "__main__":
    sys.exit(main())
