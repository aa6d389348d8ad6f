"""`report.json`: what a job measured, and everything needed to run it again."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lit_core.exports import ExportReport
from lit_core.measuring.cost import count_parameters, flops, latencies
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.checkpoint import Best
from lit_core.training.loop import Training
from lit_core.training.task import Task
from lit_spec import JobSpec, Split

LATENCY_BATCHES = (1, 32)
PACKAGES = ("torch", "numpy", "safetensors", "torchmetrics", "pydantic")


def versions() -> dict[str, str]:
    found = {name: version(name) for name in PACKAGES}
    return {"lit-compress": version("lit-compress"), "python": platform.python_version(), **found}


def measure_networks(task: Task, files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Teacher and student side by side. The test split is looked at here, once."""
    networks = {"teacher": task.teacher, "student": task.student}
    measured = {name: _measure(task, network, files[name]) for name, network in networks.items()}
    for batch in LATENCY_BATCHES:
        found = latencies([network.network for network in networks.values()], task.sample(batch))
        for name, latency in zip(networks, found, strict=True):
            measured[name]["latency"][f"batch_{batch}"] = {"p50_ms": latency.p50_ms, "p95_ms": latency.p95_ms}
    return measured


def _measure(task: Task, network: SectionedNetwork, file: Path) -> dict[str, Any]:
    network.network.eval()
    by_split = {split.value: task.measure(network.network, split) for split in (Split.VALIDATION, Split.TEST)}
    names = list(by_split[Split.TEST.value])
    return {
        **{name: {split: _rounded(found[name]) for split, found in by_split.items()} for name in names},
        "parameters": task.parameters(network) if network is task.student else count_parameters(network.network),
        "flops": flops(network.network, task.sample(1)),
        "file_size": file.stat().st_size,
        "latency": {},
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def build_report(
    spec: JobSpec,
    task: Task,
    training: Training,
    best: Best,
    measured: dict[str, dict[str, Any]],
    exports: list[ExportReport],
    steps: list[dict[str, Any]],
    environment: dict[str, str],
) -> dict[str, Any]:
    teacher, student = measured["teacher"], measured["student"]
    ratios = {name: round(teacher[name] / student[name], 4) for name in ("parameters", "flops", "file_size")}
    for key, latency in teacher["latency"].items():
        ratios[f"latency_{key}"] = round(latency["p50_ms"] / student["latency"][key]["p50_ms"], 4)
    return {
        "method": spec.method.value,
        "teacher": {"depth": spec.teacher.architecture.depth, "blocks": spec.teacher.architecture.blocks, **teacher},
        "student": {"depth": spec.student.depth, "blocks": spec.student.blocks, **student},
        "ratios": ratios,
        "selection": {
            "select": spec.student.select.value,
            "kept": training.selection.kept,
            "importance": training.selection.importance,
        },
        **task.compare(teacher, student),
        "selected": {
            "phase": best.phase.value,
            "epoch": best.epoch,
            "by": "the last epoch"
            if task.supersedes(best.phase)
            else f"{task.selection} on the {Split.VALIDATION.value} split",
            "metric": task.selection,
            "value": round(best.score, 4),
        },
        "exports": [export.as_dict() for export in exports],
        "then": steps,
        "samples": {split.value: len(arrays.y) for split, arrays in task.dataset.splits.items()},
        "labels": {split.value: arrays.labels for split, arrays in task.dataset.splits.items()},
        "classes": task.dataset.classes,
        "augmentation": task.dataset.augmentation.model_dump(),
        "preprocessing": task.dataset.preprocessing.model_dump(exclude={"class_order"}),
        "seed": spec.seed,
        "environment": environment,
        "versions": versions(),
        "seconds": round(sum(epoch["seconds"] for epoch in training.epochs), 3),
        "resumes": training.resumes,
        "epochs": training.epochs,
        "specification": spec.model_dump(mode="json"),
    }


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """The report without what the API shows elsewhere, and without what grows with the number of classes."""
    networks = {name: _without(report[name], "per_class") for name in ("teacher", "student")}
    return _without(report, "epochs", "specification") | networks


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
