"""Building reports: `report.json` of a job, and the smaller report of `compress`, from the same measurements."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lit_core.measuring.cost import count_parameters, flops, latencies, ratio_of
from lit_core.networks.block_selection import Sample, Selection
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.state_dicts import load_state
from lit_core.networks.student import shallow_architecture
from lit_core.training import recipe
from lit_core.training.loop import TrainedStudent
from lit_core.training.outcome import Judgement
from lit_core.training.setbacks import note_of
from lit_core.training.task import Task
from lit_core.training.teacher_precision import measure_teacher_precision
from lit_spec import Hyperparameters, JobSpec, Precision, Select, Split
from lit_spec.requests.target import LATENCIES
from lit_spec.trainer.report import (
    Baselines,
    Comparison,
    EpochReport,
    ExportReport,
    LatencyReport,
    Measures,
    NetworkReport,
    OperationReport,
    Outcome,
    Race,
    Ratios,
    Report,
    ReportModel,
    SelectedEpoch,
    SelectionReport,
    Setback,
    TargetReport,
    TeacherPrecisionReport,
)

LATENCY_BATCHES = (1, 32)
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "torchmetrics", "pydantic")


def versions() -> dict[str, str]:
    return {
        "lit-compress": _version("lit-compress"),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


@cache
def _version(package: str) -> str:
    """Read once, because its file is parsed each time: for all packages that takes longer than a step of training."""
    return version(package)


# --- what both reports have ---


@dataclass(frozen=True)
class NetworkCost:
    parameters: int
    flops: int
    latency: dict[str, LatencyReport]
    """By batch size: `batch_1`, …"""


def measure_costs(networks: Sequence[nn.Module], sample: Sample, batches: Sequence[int]) -> list[NetworkCost]:
    """Of networks in eval mode. Their latencies are measured in turns, so that all see the same machine."""
    by_batch = {f"batch_{batch}": latencies(networks, sample(batch)) for batch in batches}
    return [
        NetworkCost(
            parameters=count_parameters(network),
            flops=flops(network, sample(1)),
            latency={
                name: LatencyReport(p50_ms=found[n].p50_ms, p95_ms=found[n].p95_ms) for name, found in by_batch.items()
            },
        )
        for n, network in enumerate(networks)
    ]


def selection_report(selection: Selection, select: Select | None) -> SelectionReport:
    report = SelectionReport(select=select, kept=selection.kept_blocks, importance=selection.importance)
    if selection.target is not None:
        report.target = selection.target
    if selection.damages is not None:
        report.damages = rounded(selection.damages)
    return report


# --- a job ---


@dataclass(frozen=True)
class ShardedTeacher:
    """What can only be measured where all processes run the teacher."""

    flops: int
    precision: TeacherPrecisionReport | None


def measure_sharded(task: Task, spec: JobSpec) -> ShardedTeacher:
    """All processes of a sharded teacher call this. Afterwards the task has the teacher's answers to all splits, so
    that the first process can write the report alone."""
    task.teacher.network.eval()
    _scores(task, task.teacher)
    return ShardedTeacher(flops(task.teacher.network, task.sample(1)), _teacher_precision(task, spec))


def measure_networks(
    task: Task,
    spec: JobSpec,
    kept_blocks: Sequence[Sequence[int]],
    files: Mapping[str, Path],
    sharded: ShardedTeacher | None = None,
) -> tuple[NetworkReport, NetworkReport]:
    """Teacher and student. This is the only time that the test split is used. `files` are their weights by name.

    A `sharded` teacher has no latency: its processes would wait for each other in each pass."""
    for network in (task.teacher, task.student):
        network.network.eval()
    teacher_scores, student_scores = _scores(task, task.teacher), _scores(task, task.student)
    target = spec.student.target
    batches = {*LATENCY_BATCHES, *([target.batch] if target is not None and target.name in LATENCIES else [])}
    networks = [task.student.network] if sharded is not None else [task.teacher.network, task.student.network]
    costs = measure_costs(networks, task.sample, sorted(batches))
    if sharded is not None:
        costs.insert(0, NetworkCost(count_parameters(task.teacher.network), sharded.flops, latency={}))
    architecture = spec.teacher.architecture
    shallow = shallow_architecture(architecture, kept_blocks)
    teacher = NetworkReport(
        depth=architecture.depth,
        blocks=architecture.blocks,
        **teacher_scores,
        parameters=costs[0].parameters,
        flops=costs[0].flops,
        file_size=files["teacher"].stat().st_size,
        latency=costs[0].latency,
    )
    student = NetworkReport(
        depth=shallow.depth,
        blocks=shallow.blocks,
        **student_scores,
        # Method `prune` leaves zeros, which do not count.
        parameters=task.parameters(task.student),
        flops=costs[1].flops,
        file_size=files["student"].stat().st_size,
        latency=costs[1].latency,
    )
    return teacher, student


def measure_baselines(trained: TrainedStudent[Task]) -> Baselines:
    """The student's weights are as they were afterwards."""
    task, network = trained.task, trained.task.student.network
    load_state(network, trained.untrained)
    measured = Baselines(untrained=Measures(**_scores(task, task.student)))
    if trained.selection.repaired is not None:
        load_state(network, trained.selection.repaired)
        measured.repaired = Measures(**_scores(task, task.student))
    load_state(network, trained.chosen[0].state)
    return measured


def _scores(task: Task, network: SectionedNetwork) -> dict[str, Any]:
    """By the names of `Measures`, each with its values by split."""
    by_split = {split: task.measure(network.network, split) for split in (Split.VALIDATION, Split.TEST)}
    return {
        name: {split.value: rounded(found[name]) for split, found in by_split.items()} for name in by_split[Split.TEST]
    }


def _teacher_precision(task: Task, spec: JobSpec) -> TeacherPrecisionReport | None:
    if spec.teacher_precision != Precision.BFLOAT16:
        return None
    return measure_teacher_precision(task.teacher, task.batches(Split.VALIDATION), spec.teacher_precision)


def rounded(value: Any) -> Any:
    """Floats to four places, also those in dictionaries and lists; None for one that is not finite."""
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else None


def build_report(
    spec: JobSpec,
    trained: TrainedStudent[Task],
    networks: tuple[NetworkReport, NetworkReport],
    baselines: Baselines,
    exports: list[ExportReport],
    operations: list[OperationReport],
    environment: dict[str, str],
    sharded: ShardedTeacher | None = None,
) -> Report:
    """`networks` are teacher and student as they were measured."""
    task, (teacher, student), best = trained.task, networks, trained.chosen[0]
    judgement = task.judge(teacher, student, baselines.untrained, best)
    before = [*race_notes(trained, spec), *(note_of(setback) for setback in trained.setbacks)]
    before += missed_latency(trained.selection.target, spec.precision, teacher.latency, student.latency)
    if sharded is not None:
        before.append(f"the teacher's latency was not measured, because it was sharded over {spec.processes} processes")
    ratio = partial(_latency_ratio, teacher.latency, student.latency)
    given = {
        "race": trained.race,
        "teacher_accuracy": task.teacher_accuracy(),
        "teacher_cache": task.teacher_cache(),
        "teacher_precision": _teacher_precision(task, spec) if sharded is None else sharded.precision,
    }
    return Report(
        **{name: value for name, value in given.items() if value is not None},
        **_judged(task.compare(teacher, student), judgement, before).as_json(),
        method=spec.method,
        teacher=teacher,
        student=student,
        baselines=baselines,
        outcome=judgement.outcome,
        ratios=Ratios(
            parameters=ratio_of(teacher.parameters, student.parameters),
            flops=ratio_of(teacher.flops, student.flops),
            file_size=ratio_of(teacher.file_size, student.file_size),
            latency_batch_1=None if sharded is not None else ratio("batch_1"),
            latency_batch_32=None if sharded is not None else ratio("batch_32"),
        ),
        selection=selection_report(trained.selection, spec.student.select),
        selected=SelectedEpoch(
            phase=best.phase,
            epoch=best.epoch,
            by="the last epoch"
            if task.supersedes(best.phase)
            else f"{task.selection} on the {Split.VALIDATION.word} split",
            metric=task.selection,
            value=round(best.score, 4),
        ),
        exports=exports,
        then=operations,
        samples={split: len(arrays.y) for split, arrays in task.dataset.splits.items()},
        labels={split: arrays.labels for split, arrays in task.dataset.splits.items()},
        classes=task.dataset.classes,
        augmentation=task.dataset.augmentation,
        preprocessing=task.dataset.preprocessing.model_dump(mode="json", exclude={"class_order"}),
        seed=spec.seed,
        environment=environment,
        versions=versions(),
        seconds=round(sum(epoch.metrics["seconds"] for epoch in trained.epochs), 3),
        resumes=trained.resumes,
        setbacks=trained.setbacks,
        epochs=trained.epochs,
        specification=spec,
    )


def race_notes(trained: TrainedStudent[Any], asked: Hyperparameters) -> list[str]:
    note = None if trained.race is None else recipe.note_of(trained.race, asked)
    return [] if note is None else [note]


def _judged(comparison: Comparison, judgement: Judgement, notes: list[str]) -> Comparison:
    """`notes` stand before those of the judgement."""
    accepted = None if comparison.accepted is None else comparison.accepted and judgement.acceptable
    return comparison.model_copy(update={"accepted": accepted, "notes": [*comparison.notes, *notes, *judgement.notes]})


def missed_latency(
    target: TargetReport | None,
    precision: Precision,
    teacher: Mapping[str, LatencyReport],
    student: Mapping[str, LatencyReport],
) -> list[str]:
    """A sentence if the student was measured to be slower than its target asks for. That is done in float32 only."""
    if target is None or target.asked.name not in LATENCIES or precision != Precision.FLOAT32:
        return []
    asked, batch = target.asked, f"batch_{target.asked.batch}"
    ratio, ms = _latency_ratio(teacher, student, batch), student[batch].p50_ms
    missed = ratio < asked.value if asked.latency_ratio is not None else ms > asked.value
    if not missed:
        return []
    return [
        f"the student was chosen for {asked} and expected to take {target.expected:.3f} ms, but took {ms:.3f} ms, "
        f"{ratio:.2f} times less than its teacher. Ask for a little more"
    ]


def _latency_ratio(teacher: Mapping[str, LatencyReport], student: Mapping[str, LatencyReport], batch: str) -> float:
    return ratio_of(teacher[batch].p50_ms, student[batch].p50_ms)


# --- compress ---


class CompressedNetwork(ReportModel):
    """Teacher or student."""

    blocks: list[int]
    parameters: int
    flops: int
    latency_ms: float
    """The p50 of one sample."""


class CompressionRatios(ReportModel):
    """Teacher / student."""

    parameters: float
    flops: float
    latency_ms: float


class PruningReport(ReportModel):
    """One operation of `then`."""

    step: str
    parameters: int
    """Without those that are pruned."""
    parameters_ratio: float
    validation: dict[str, float | None] | None
    epoch: int


class CompressionReport(ReportModel):
    """The report of `compress`."""

    teacher: CompressedNetwork
    student: CompressedNetwork
    ratios: CompressionRatios
    sections: list[list[str]]
    """Module paths of each section's blocks in the teacher."""
    selection: SelectionReport
    validation: dict[str, float | None] | None
    """`agreement`, `teacher_accuracy` and `student_accuracy` in percent; None without validation data."""
    baselines: dict[str, dict[str, float | None]] | None
    """The same scores of `untrained`, the student before its training, and of `repaired`, if a repair brought it closer
    to the model; None without validation data."""
    outcome: Outcome | None
    """What the training made of the student; None without validation data."""
    setbacks: list[Setback]
    """Where the training became unstable, in order."""
    race: Race | None
    """Which method and learning rate won before the training; None without `race`."""
    notes: list[str]
    """A sentence that says what is wrong with the student, if anything is, or that nothing was measured."""
    then: list[PruningReport]
    epochs: list[EpochReport]
    hyperparameters: dict[str, Any]


def compare_networks(
    teacher: SectionedNetwork, student: SectionedNetwork, sample: tuple[Tensor, ...]
) -> tuple[CompressedNetwork, CompressedNetwork, CompressionRatios]:
    """`sample` is a batch of one."""
    costs = measure_costs([teacher.network, student.network], lambda _: sample, [1])
    before, after = (
        CompressedNetwork(
            blocks=[len(section) for section in network.sections],
            parameters=cost.parameters,
            flops=cost.flops,
            latency_ms=cost.latency["batch_1"].p50_ms,
        )
        for network, cost in zip((teacher, student), costs, strict=True)
    )
    ratios = CompressionRatios(
        parameters=ratio_of(before.parameters, after.parameters),
        flops=ratio_of(before.flops, after.flops),
        latency_ms=ratio_of(before.latency_ms, after.latency_ms),
    )
    return before, after, ratios
