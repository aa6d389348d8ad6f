"""Messages between a worker and its trainer: one JSON object per line.

The trainer writes `TrainerMessage` lines to its standard output. The worker writes `Deadline` lines to the trainer's
standard input.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_serializer

from lit_spec.errors import JobError
from lit_spec.requests.training import Phase
from lit_spec.trainer.phases import JobPhase
from lit_spec.trainer.plan import PlanSummary
from lit_spec.trainer.report import ReportSummary

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
MetricName = Annotated[str, Field(min_length=1, max_length=200)]


class _Message(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    def as_line(self) -> str:
        """JSON without a line break. Raises ValueError for NaN and infinity, which JSON does not have."""
        return json.dumps(self.model_dump(mode="json"), allow_nan=False)


class Started(_Message):
    type: Literal["started"] = "started"
    data: dict[str, Any] = Field(default_factory=dict)
    """`environment` and `versions`, as in the report."""


class TeacherMeasured(_Message):
    type: Literal["teacher_measured"] = "teacher_measured"
    data: dict[str, Any] = Field(default_factory=dict)
    """The teacher's scores on the validation split; which ones depends on the task."""


class StudentChosen(_Message):
    type: Literal["student_chosen"] = "student_chosen"
    data: dict[str, Any] = Field(default_factory=dict)
    """`depth`, `blocks` and `kept` of the student that the trainer chose, and for a target `target` as in the report's
    `selection`."""


class StudentMeasured(_Message):
    """A student of a plan."""

    type: Literal["student_measured"] = "student_measured"
    number: Count
    """Counted from 1."""
    students: Count
    """All students of the plan."""
    data: dict[str, Any] = Field(default_factory=dict)
    """As in the report's `students`; `front` is known only at the end."""


class EpochDone(_Message):
    type: Literal["epoch"] = "epoch"
    phase: Phase
    epoch: Count
    """Counted from 1 within the phase."""
    epochs: Count
    """All epochs of the phase."""
    fraction: float = Field(ge=0, le=1)
    """How much of the whole training is done, from 0 to 1."""
    metrics: dict[MetricName, float] = Field(max_length=1000)
    steps: Count | None = None
    """Optimisation steps of this epoch."""


class Progress(_Message):
    """How far the job is: sent when a phase begins, and at most once a second within one. It is no event."""

    type: Literal["progress"] = "progress"
    phase: JobPhase
    epoch: Count = 0
    """Finished epochs of the phase; 0 in a phase without epochs."""
    epochs: Count = 0
    """All epochs of the phase."""
    step: Count | None = None
    """Finished steps of the epoch after these, or of a phase without epochs."""
    steps: Count | None = None
    """All of these steps; None if their number is not known."""
    fraction: float | None = Field(None, ge=0, le=1)
    """How much of the whole training is done, from 0 to 1. None: as much as before."""


class CheckpointWritten(_Message):
    """The trainer has written a checkpoint. The training continues with `step` of `epoch`, both counted from 0."""

    type: Literal["checkpoint"] = "checkpoint"
    phase: Phase
    epoch: Count
    step: Count


class Finished(_Message):
    type: Literal["finished"] = "finished"
    result: ReportSummary | PlanSummary

    @field_serializer("result")
    def _only_set_keys(self, result: ReportSummary | PlanSummary) -> dict[str, Any]:
        return result.as_json()


class Failed(_Message):
    type: Literal["failed"] = "failed"
    error: JobError


class Drained(_Message):
    """The trainer was asked to stop and has written a checkpoint."""

    type: Literal["drained"] = "drained"


TrainerMessage = (
    Started
    | TeacherMeasured
    | StudentChosen
    | StudentMeasured
    | EpochDone
    | Progress
    | CheckpointWritten
    | Finished
    | Failed
    | Drained
)
TRAINER_MESSAGE: TypeAdapter[TrainerMessage] = TypeAdapter(Annotated[TrainerMessage, Field(discriminator="type")])


class Deadline(_Message):
    deadline: float
    """The trainer must end before this time, in seconds on `lit_spec.trainer.clock.boottime`."""
