"""What a trainer says: one JSON object a line, checked before any of it reaches the ledger."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from jobs.database import jsonb
from lit_spec import JobError, Phase

MAX_LINE_BYTES = 1 << 20
"""A longer line is no event."""

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
MetricName = Annotated[str, Field(min_length=1, max_length=200)]


class _Message(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Started(_Message):
    type: Literal["started"]
    data: dict[str, Any] = Field(default_factory=dict)


class TeacherMeasured(_Message):
    type: Literal["teacher_measured"]
    data: dict[str, Any] = Field(default_factory=dict)


class EpochDone(_Message):
    type: Literal["epoch"]
    phase: Phase
    epoch: Count
    epochs: Count
    fraction: float = Field(ge=0, le=1)
    metrics: dict[MetricName, float] = Field(max_length=1000)


class CheckpointWritten(_Message):
    type: Literal["checkpoint"]
    phase: Phase
    epoch: Count
    step: Count


class Finished(_Message):
    type: Literal["finished"]
    result: dict[str, Any]


class Failed(_Message):
    type: Literal["failed"]
    error: JobError


class Drained(_Message):
    type: Literal["drained"]


Message = Started | TeacherMeasured | EpochDone | CheckpointWritten | Finished | Failed | Drained
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def parse(line: bytes) -> Message | None:
    """The message of a line; None for anything that is none, or that a `jsonb` column could not hold."""
    try:
        value = json.loads(line)
        jsonb.check(value)
        return _MESSAGES.validate_python(value)
    except (ValueError, ValidationError, RecursionError):
        return None
