"""What every part of the specification is built on."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class SpecModel(BaseModel):
    """Strict base: unknown fields are errors, NaN and infinity are not numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "val"
    TEST = "test"


class SpecError(ValueError):
    """A request that doesn't fit its teacher. `field` is a dotted path into the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
