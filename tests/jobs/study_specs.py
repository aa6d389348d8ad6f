"""Specifications of studies, and trials as a kind of study sees them, without a ledger."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from jobs.studies.kinds.kind_of import kind_of
from jobs.studies.kinds.trials import Kind, StudySpec, Trial, TrialResult
from lit_spec import Split
from lit_spec.requests.plan import PlanOptions
from lit_spec.requests.study import AnyStudyRequest
from lit_spec.states import JobState
from lit_spec.trainer.plan import PlannedStudent, PlannedTeacher, PlanSummary
from lit_spec.trainer.report import BySplit, Measures
from tests.worker.bench import INSPECTION

JOB: dict[str, Any] = {"teacher": "upl_teacher", "dataset": {"builtin": "digits"}}
STUDENT = {"student": {"depth": 14}}
DEPTHS = [8, 14, 20, 26, 32]
"""What the teacher of `tests.worker.bench` offers."""
TEACHER = 98.0


def make_spec(kind: str, job: dict[str, Any] | None = None, **fields: Any) -> StudySpec:
    base = JOB | ({} if kind in ("depth", "plan") else STUDENT) | (job or {})
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


def make_plan(kept: list[list[list[int]]]) -> PlanSummary:
    """The result of a plan's job, in which each student agrees with the teacher for ten points a block."""

    def network(blocks: int) -> dict[str, Any]:
        return {
            "depth": 2 * blocks + 2,
            "parameters": 100 * blocks,
            "flops": 1000 * blocks,
            "file_size": 440 * blocks,
            "latency_ms": 0.5 * blocks,
        }

    def student(kept: list[list[int]]) -> PlannedStudent:
        blocks = sum(map(len, kept))
        scores = Measures(agreement=BySplit(val=10.0 * blocks))
        return PlannedStudent(
            **network(blocks),
            blocks=[len(section) for section in kept],
            kept=kept,
            damage=0.25,
            untrained=scores,
            repaired=None,
            front=blocks % 2 == 0,
        )

    return PlanSummary(
        plan=PlanOptions(students=len(kept)),
        metric="agreement",
        teacher=PlannedTeacher(**network(10), blocks=[5, 5], scores=Measures(agreement=BySplit(val=100.0))),
        students=[student(one) for one in kept],
        damages=[[None, 0.1, 0.1, 0.1, 0.1]] * 2,
        samples=dict.fromkeys(Split, 10),
        labels=dict.fromkeys(Split, 0),
        classes=["a", "b"],
        preprocessing={},
        notes=[],
        environment={"device": "cpu"},
        versions={},
        seconds=1.0,
    )


def succeeded(job_id: str, validation: float, **other: Any) -> Trial:
    return Trial(job_id, JobState.SUCCEEDED, result=make_outcome(validation, **other))
