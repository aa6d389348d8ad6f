"""What a job says when it fails."""

from __future__ import annotations

from enum import StrEnum

from lit_spec.base import SpecModel


class ErrorType(StrEnum):
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out-of-memory"
    BAD_DATASET = "bad-dataset"
    BAD_TEACHER = "bad-teacher"
    BAD_SPECIFICATION = "bad-specification"
    TEACHER_NEAR_CHANCE = "teacher-near-chance"
    DEVICE_UNAVAILABLE = "device-unavailable"
    WORKER_LOST = "worker-lost"
    TRAINER_CRASHED = "trainer-crashed"
    TIME_LIMIT = "time-limit"


class JobError(SpecModel):
    """Why a job failed, for people (`detail`) and programs (`type`)."""

    type: ErrorType
    detail: str
    field: str | None = None
    """The field of the request to change, if one is to blame."""
    member: str | None = None
    """The file or array inside the dataset, if one is to blame."""
