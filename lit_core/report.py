"""`report.json`: what a job measured, and everything needed to run it again."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_core.checkpoint import Best
from lit_core.data import Dataset
from lit_core.measure import accuracy, flops, latencies
from lit_core.spec import JobSpec, Split
from lit_core.teacher import count_parameters
from lit_core.training import Training

LATENCY_BATCHES = (1, 32)
PACKAGES = ("torch", "numpy", "safetensors", "pydantic")


def versions() -> dict[str, str]:
    found = {name: version(name) for name in PACKAGES}
    return {"lit-compress": version("lit-compress"), "python": platform.python_version(), **found}


def measure_networks(
    networks: dict[str, nn.Module], files: dict[str, Path], dataset: Dataset, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Teacher and student side by side. The test split is looked at here, once."""
    preprocessing = dataset.preprocessing
    measured: dict[str, dict[str, Any]] = {}
    sample = torch.zeros(1, preprocessing.channels, *preprocessing.size, device=device)
    for name, network in networks.items():
        network.eval()
        accuracies = {split: accuracy(network, dataset, split, device) for split in (Split.VALIDATION, Split.TEST)}
        measured[name] = {
            "accuracy": {split.value: round(found.top1, 4) for split, found in accuracies.items()},
            "parameters": count_parameters(network),
            "flops": flops(network, sample),
            "file_size": files[name].stat().st_size,
            "latency": {},
        }
    for batch in LATENCY_BATCHES:
        found = latencies(list(networks.values()), sample.expand(batch, -1, -1, -1).contiguous())
        for name, latency in zip(networks, found, strict=True):
            measured[name]["latency"][f"batch_{batch}"] = {"p50_ms": latency.p50_ms, "p95_ms": latency.p95_ms}
    return measured


def build_report(
    spec: JobSpec,
    dataset: Dataset,
    training: Training,
    best: Best,
    measured: dict[str, dict[str, Any]],
    environment: dict[str, str],
) -> dict[str, Any]:
    teacher, student = measured["teacher"], measured["student"]
    drop = teacher["accuracy"]["test"] - student["accuracy"]["test"]
    ratios = {name: round(teacher[name] / student[name], 4) for name in ("parameters", "flops", "file_size")}
    for key, latency in teacher["latency"].items():
        ratios[f"latency_{key}"] = round(latency["p50_ms"] / student["latency"][key]["p50_ms"], 4)
    return {
        "teacher": {"depth": spec.teacher.architecture.depth, "blocks": spec.teacher.architecture.blocks, **teacher},
        "student": {"depth": spec.student.depth, "blocks": spec.student.blocks, **student},
        "ratios": ratios,
        "accuracy_drop": round(drop, 4),
        "accepted": None if spec.accept is None else drop <= spec.accept.max_accuracy_drop,
        "selected": {"phase": best.phase.value, "epoch": best.epoch, "validation_accuracy": round(best.accuracy, 4)},
        "samples": {split.value: len(arrays.y) for split, arrays in dataset.splits.items()},
        "seed": spec.seed,
        "environment": environment,
        "versions": versions(),
        "resumes": training.resumes,
        "epochs": training.epochs,
        "specification": spec.model_dump(mode="json"),
    }


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """The report without what the API shows elsewhere."""
    return {name: value for name, value in report.items() if name not in ("epochs", "specification")}
