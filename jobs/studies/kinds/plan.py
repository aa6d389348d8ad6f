"""`plan`: a range of students, measured by one job that trains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.studies.kinds.trials import Choice, Key, NextSteps, Row, StudySpec, Template, Trials, check_student_is_open
from lit_spec.errors import StudyError, StudyErrorType
from lit_spec.merge_patch import merge_patch
from lit_spec.requests.plan import PlanOptions
from lit_spec.requests.study import PlanRequest


class PlanKey(Key):
    pass


class PlanRow(Row):
    depth: int
    kept: list[list[int]]
    """For each section the indices of the teacher's blocks that stay, as for `student.kept` of a job's request."""
    parameters: int
    parameters_ratio: float
    """Teacher / student, as the other ratios."""
    flops: int
    flops_ratio: float | None
    file_size: int
    """Bytes of the weights."""
    latency_ms: float
    """Of one forward pass at the plan's batch, as expected from the teacher's blocks."""
    speedup: float | None
    damage: float | None
    """Mean KL divergence from the teacher on training inputs, in nats, without training and repair."""
    untrained: float | None
    """On the validation split, in the table's `validation_metric`."""
    repaired: float | None
    front: bool
    """Whether no other student is both faster and better."""


class Plan:
    reads_curves = False
    columns = PlanRow

    def __init__(self, spec: StudySpec, request: PlanRequest) -> None:
        """Raises SpecError if the base request already says which student it wants."""
        check_student_is_open(request.job)
        self._options = {name: getattr(request, name) for name in PlanOptions.model_fields}
        self._job = spec.job
        self._key = PlanKey(seed=request.job.seed)

    @property
    def planned(self) -> int:
        return 1

    def key(self, stored: Mapping[str, Any]) -> PlanKey:
        return PlanKey.model_validate(stored)

    def request(self, key: PlanKey) -> dict[str, Any]:
        return merge_patch(self._job, {"student": {"plan": self._options}, "seed": key.seed})

    def templates(self) -> Iterator[Template]:
        origins = {"student.plan": "kind", **{f"student.plan.{name}": name for name in self._options}}
        yield Template(self.request(self._key), self._job, origins)

    def next_steps(self, trials: Trials[PlanKey], _width: int, /) -> NextSteps[PlanKey]:
        trial = trials.get(self._key)
        if trial is None:
            return NextSteps(new=[self._key])
        if trial.live:
            return NextSteps()
        if trial.plan is None:
            detail = f"its job {trial.job_id} {trial.state}: see the job's error, then resume the study"
            return NextSteps(failure=StudyError(type=StudyErrorType.NO_RESULT, detail=detail))
        front = [student.depth for student in trial.plan.students if student.front]
        return NextSteps(choice=Choice(values={"front": front}, job_id=trial.job_id))

    def table(self, trials: Trials[PlanKey]) -> list[PlanRow]:
        trial = trials.get(self._key)
        if trial is None or trial.plan is None:
            return []
        return [PlanRow(**row, chosen=row["front"], job_id=trial.job_id) for row in trial.plan.rows]
