"""Specifications of studies, and trials as a plan sees them, without a ledger."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from jobs.studies.plans.plan_of import kind_of
from jobs.studies.plans.trials import Kind, StudySpec, Trial, TrialResult
from lit_spec.requests.study import AnyStudyRequest
from lit_spec.states import JobState
from tests.worker.bench import INSPECTION

JOB: dict[str, Any] = {"teacher": "upl_teacher", "dataset": {"builtin": "digits"}}
STUDENT = {"student": {"depth": 14}}
DEPTHS = [8, 14, 20, 26, 32]
"""What the teacher of `tests.worker.bench` offers."""
TEACHER = 98.0


def make_spec(kind: str, job: dict[str, Any] | None = None, **fields: Any) -> StudySpec:
    base = JOB | ({} if kind == "depth" else STUDENT) | (job or {})
    request: Any = TypeAdapter(AnyStudyRequest).validate_python({"kind": kind, "job": base, **fields})
    return StudySpec(request=request, inspection=INSPECTION)


def make_kind(kind: str, job: dict[str, Any] | None = None, **fields: Any) -> Kind[Any]:
    return kind_of(make_spec(kind, job, **fields))


def make_outcome(validation: float, test: float | None = None, latency_ms: float = 1.0, **other: Any) -> TrialResult:
    values: dict[str, Any] = {
        "validation_metric": "accuracy",
        "validation": validation,
        "teacher_validation": TEACHER,
        "test_metric": "accuracy",
        "test": validation - 1 if test is None else test,
        "teacher_test": TEACHER,
        "parameters": 1000,
        "teacher_parameters": 3000,
        "latency_ms": latency_ms,
        "teacher_latency_ms": 3.0,
        "seconds": 2.0,
    }
    return TrialResult(**values | other)


def succeeded(job_id: str, validation: float, **other: Any) -> Trial:
    return Trial(job_id, JobState.SUCCEEDED, result=make_outcome(validation, **other))
