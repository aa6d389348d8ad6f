"""From a job's result to what a study needs of it."""

from __future__ import annotations

from typing import Any

from jobs.studies.plans.trials import Outcome
from lit_spec import Split

MEASURES = ("accuracy", "agreement", "psnr", "parameters", "latency")
"""What is read of each network."""
LATENCY = "batch_1"


def outcome_of(result: dict[str, Any]) -> Outcome | None:
    """Read a summary of a report (`lit_core.report`); None where it does not tell what was selected."""
    selected, student, teacher = result["selected"], result["student"], result["teacher"]
    if selected is None:
        return None
    metric = str(selected["metric"])
    labelled = _on(student, "accuracy", Split.TEST) is not None
    test_metric = "accuracy" if labelled else metric
    return Outcome(
        validation_metric=metric,
        validation=float(selected["value"]),
        teacher_validation=_on(teacher, metric, Split.VALIDATION),
        test_metric=test_metric,
        test=_on(student, test_metric, Split.TEST),
        teacher_test=_on(teacher, test_metric, Split.TEST),
        parameters=student.get("parameters"),
        teacher_parameters=teacher.get("parameters"),
        latency_ms=_latency(student),
        teacher_latency_ms=_latency(teacher),
        seconds=result.get("seconds"),
    )


def _on(network: dict[str, Any], metric: str, split: Split) -> float | None:
    by_split = network.get(metric)
    return by_split.get(split.value) if isinstance(by_split, dict) else None


def _latency(network: dict[str, Any]) -> float | None:
    latency = network.get("latency") or {}
    found: float | None = latency.get(LATENCY, {}).get("p50_ms")
    return found
