"""From a job's result to what a study needs of it."""

from __future__ import annotations

from typing import Any

from jobs.studies.kinds.trials import TrialResult
from lit_spec import Split
from lit_spec.trainer.plan import MeasuredStudents
from lit_spec.trainer.report import BySplit, LatencyReport, Measures, ReportModel

LATENCY = "batch_1"


class MeasuredNetwork(ReportModel):
    """The part of a `NetworkSummary` that a study reads. Older reports may lack some of it."""

    accuracy: BySplit | None = None
    agreement: BySplit | None = None
    psnr: BySplit | None = None
    parameters: int | None = None
    latency: dict[str, LatencyReport] | None = None

    def score(self, metric: str, split: Split) -> float | None:
        return Measures(accuracy=self.accuracy, agreement=self.agreement, psnr=self.psnr).score(metric, split)

    @property
    def latency_ms(self) -> float | None:
        found = (self.latency or {}).get(LATENCY)
        return None if found is None else found.p50_ms


MEASURES = tuple(MeasuredNetwork.model_fields)
"""What is read of each network."""


class SelectedScore(ReportModel):
    """The part of a `SelectedEpoch` that a study reads."""

    metric: str
    value: float


class ResultOfTrial(ReportModel):
    """The part of a `ReportSummary` that a study reads."""

    selected: SelectedScore | None
    teacher: MeasuredNetwork
    student: MeasuredNetwork
    seconds: float | None = None


def plan_of(result: dict[str, Any] | None) -> MeasuredStudents | None:
    """Read the result of a job that measured a range of students."""
    return None if result is None else MeasuredStudents.model_validate(result)


def trial_result_of(result: dict[str, Any]) -> TrialResult | None:
    """Read a `ReportSummary`, or the part of it above; None if it does not tell which epoch was selected."""
    found = ResultOfTrial.model_validate(result)
    selected, student, teacher = found.selected, found.student, found.teacher
    if selected is None:
        return None
    metric = selected.metric
    labelled = student.score("accuracy", Split.TEST) is not None
    test_metric = "accuracy" if labelled else metric
    return TrialResult(
        validation_metric=metric,
        validation=selected.value,
        teacher_validation=teacher.score(metric, Split.VALIDATION),
        test_metric=test_metric,
        test=student.score(test_metric, Split.TEST),
        teacher_test=teacher.score(test_metric, Split.TEST),
        parameters=student.parameters,
        teacher_parameters=teacher.parameters,
        latency_ms=student.latency_ms,
        teacher_latency_ms=teacher.latency_ms,
        seconds=found.seconds,
    )
