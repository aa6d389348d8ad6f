"""The base of all specification models."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, ValidationInfo, model_validator
from pydantic_core import CoreSchema, core_schema

READING_ANSWER = {"unknown values": "keep"}
"""Validation context of what a newer version may have written, such as the service's answer to a client: an `OpenEnum`
keeps values that this version doesn't know."""


class SpecModel(BaseModel):
    """Strict base: unknown fields are errors, NaN and infinity are not numbers, and neither are true and "1".

    pydantic's own strict mode is too strict for JSON: it refuses 1.0 as an integer, and the value of an enum's member.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_conversions(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        types = _types_by_field(cls)
        return {name: _unconverted(item, types.get(name, frozenset())) for name, item in value.items()}


_NUMBERS = {int, float}
_NO_VALUE = object()
"""In place of a value that pydantic would convert: it's an error for every type."""


_DEEPEST_LIST = 3
"""No field has lists in lists in more lists."""


def _unconverted(value: Any, types: frozenset[type], depth: int = 0) -> Any:
    """The value; without booleans, numbers and strings that would become another of these types."""
    match value:
        case list() if depth < _DEEPEST_LIST:
            return [_unconverted(item, types, depth + 1) for item in value]
        case bool():
            wrong = bool not in types and bool(types & _NUMBERS)
        case int() | float():
            wrong = bool in types and not types & _NUMBERS
        case str():
            wrong = bool(types) and types <= {*_NUMBERS, bool, type(None)}
        case _:
            return value
    return _NO_VALUE if wrong else value


@functools.cache
def _types_by_field(model: type[BaseModel]) -> dict[str, frozenset[type]]:
    """The types of each field, and of what its lists and objects hold."""
    return {name: frozenset(_types_in(field.annotation)) for name, field in model.model_fields.items()}


def _types_in(annotation: Any) -> Iterator[type]:
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif get_origin(annotation) is not None:
        for part in get_args(annotation):
            yield from _types_in(part)
    elif isinstance(annotation, type):
        yield annotation


class OpenEnum(StrEnum):
    """An enum in answers of the service, to which a newer service may add values.

    In requests and specifications an unknown value is an error. With READING_ANSWER it is kept, as a member without a
    name, so that an older client works with a newer service, and an older API with newer workers.
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
