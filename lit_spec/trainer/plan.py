"""The report of a plan: what a range of students would cost and keep, before any training.

`python -m lit_spec.trainer.plan` prints its JSON schema.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from pydantic import field_serializer

from lit_spec.base import Split
from lit_spec.requests.job import JobSpec
from lit_spec.requests.plan import PlanOptions
from lit_spec.trainer.report import MeasuredAccuracy, Measures, ReportModel


class PlannedNetwork(ReportModel):
    """Teacher or student."""

    depth: int
    blocks: list[int]
    """Blocks of each section."""
    parameters: int
    flops: int
    """Floating-point operations for one input, two for each multiply-add."""
    file_size: int
    """Bytes of the weights as safetensors, without the file's header."""
    latency_ms: float
    """Of one forward pass at the plan's batch and the job's precision. For a student: the teacher's, measured, without
    what its missing blocks take."""


class PlannedTeacher(PlannedNetwork):
    scores: Measures
    """On the validation split."""


class PlannedStudent(PlannedNetwork):
    kept: list[list[int]]
    """For each section: the indices of the teacher's blocks that stay, as for `student.kept` of a request."""
    damage: float | None
    """How far its outputs are from the teacher's on training inputs without training and repair: mean KL divergence in
    nats; null where the outputs are not finite."""
    untrained: Measures
    """On the validation split."""
    repaired: Measures | None
    """The same after a repair without labels; null if it was not asked for, or if it did not bring the student closer
    to the teacher. A job with these blocks as `kept` and with `student.repair` begins there."""
    front: bool
    """Whether no other student is at once as fast and as good, by the better of its two scores in `metric`."""

    def best(self, metric: str) -> float | None:
        """The better of its scores before any training; None if its outputs are not finite."""
        found = [scores.score(metric, Split.VALIDATION) for scores in (self.untrained, self.repaired) if scores]
        return max((value for value in found if value is not None), default=None)

    def row(self, teacher: PlannedNetwork, metric: str) -> dict[str, Any]:
        """As in a plan's table. Ratios are teacher / student."""
        return {
            "depth": self.depth,
            "kept": self.kept,
            "parameters": self.parameters,
            # Rounded down, so that this student satisfies a request for this ratio.
            "parameters_ratio": teacher.parameters * 1000 // self.parameters / 1000,
            "flops": self.flops,
            "flops_ratio": round(teacher.flops / self.flops, 3) if self.flops else None,
            "file_size": self.file_size,
            "latency_ms": self.latency_ms,
            "speedup": round(teacher.latency_ms / self.latency_ms, 3) if self.latency_ms else None,
            "damage": self.damage,
            "untrained": self.untrained.score(metric, Split.VALIDATION),
            "repaired": self.repaired and self.repaired.score(metric, Split.VALIDATION),
            "front": self.front,
        }


class MeasuredStudents(ReportModel):
    """The part of a plan's result that its table shows."""

    metric: Literal["accuracy", "agreement"]
    """By which students are compared: `agreement` if the validation split has no labels."""
    teacher: PlannedTeacher
    students: list[PlannedStudent]
    """The largest first."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [student.row(self.teacher, self.metric) for student in self.students]


class PlanSummary(MeasuredStudents):
    """The `result` of a plan's job in the API."""

    plan: PlanOptions
    damages: list[list[float | None]]
    """The damage of leaving out each of the teacher's blocks alone; null for a block that must stay, and where the
    outputs are not finite."""
    samples: dict[Split, int]
    """Number of samples of each split."""
    labels: dict[Split, int]
    """How many of the samples have a label."""
    classes: list[str]
    """Names of the outputs, in their order."""
    preprocessing: dict[str, Any]
    """As in config.json, without the class names."""
    teacher_accuracy: MeasuredAccuracy | None = None
    """Absent without labels in the validation and the test split."""
    notes: list[str]
    """Whether the images may not be preprocessed as the teacher needs it, and whether it may be no better than
    chance."""
    environment: dict[str, str]
    versions: dict[str, str]
    seconds: float
    """What the plan took, without loading the data."""


class PlanReport(PlanSummary):
    """The content of report.json."""

    specification: JobSpec

    @field_serializer("specification")
    def _whole_specification(self, specification: JobSpec) -> dict[str, Any]:
        return specification.model_dump(mode="json")

    def summary(self) -> PlanSummary:
        return PlanSummary.model_validate(self.as_json())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(PlanReport.model_json_schema(), indent=2, ensure_ascii=False) + "\n")
