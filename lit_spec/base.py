"""The base of all specification models."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, core_schema

READING_ANSWER = {"unknown values": "keep"}
"""Validation context of a client that reads an answer: an `OpenEnum` keeps values that this version doesn't know."""


class SpecModel(BaseModel):
    """Strict base: unknown fields are errors, NaN and infinity are not numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class OpenEnum(StrEnum):
    """An enum in answers of the service, to which a newer service may add values.

    In requests and stored rows an unknown value is an error. A client that reads an answer keeps it, as a member
    without a name, so that an older client works with a newer service.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_wrap_validator_function(cls._validate, handler(source))

    @classmethod
    def _validate(cls, value: Any, handler: core_schema.ValidatorFunctionWrapHandler, info: ValidationInfo) -> Self:
        try:
            return handler(value)  # type: ignore[no-any-return]
        except ValidationError:
            if info.context != READING_ANSWER or not isinstance(value, str):
                raise
            return cls._unknown(value)

    @classmethod
    def _unknown(cls, value: str) -> Self:
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "val"
    TEST = "test"


class SpecError(ValueError):
    """A request that does not fit its teacher. `field` is a dotted path in the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
