"""The base of all specification models."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from lit_spec.documented import Documented
from lit_spec.shown import CONTROL

READING_ANSWER = {"unknown values": "keep"}
"""Validation context of what a newer version may have written, such as the service's answer to a client: an `OpenEnum`
keeps values that this version doesn't know."""

READING_STORED = {"names": "keep"}
"""Validation context of what the ledger holds: names that an earlier version accepted stay."""


class SpecModel(Documented):
    """Strict base: unknown fields are errors, NaN and infinity are not numbers, and neither are true and "1".

    pydantic's own strict mode is too strict for JSON: it refuses 1.0 as an integer, and the value of an enum's member.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_conversions(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        types = _types_by_field(cls)
        return {name: _unconverted(item, types.get(name)) for name, item in value.items()}


def _without_control_characters(name: str, info: ValidationInfo) -> str:
    if CONTROL.search(name) and info.context != READING_STORED:
        raise ValueError("has a control character: leave it out")
    return name


NameText = Annotated[str, AfterValidator(_without_control_characters)]
"""A name for people, which stands in lists, logs and on terminals."""

_NUMBERS = {int, float}
_NO_VALUE = object()
"""In place of a value that pydantic would convert: it's an error for every type."""


@dataclass(frozen=True)
class _Types:
    """What a field may have: single values of these types, these words, and lists of `items`."""

    single: frozenset[type]
    words: frozenset[str]
    items: _Types | None


def _unconverted(value: Any, types: _Types | None) -> Any:
    """The value; without booleans, numbers and strings that would become another of these types."""
    if types is None:
        return value
    match value:
        case list() | tuple():
            return [_unconverted(item, types.items) for item in value]
        case bool():
            wrong = bool not in types.single and bool(types.single & _NUMBERS)
        case int() | float():
            wrong = bool in types.single and not types.single & _NUMBERS
        case str():
            wrong = value not in types.words and bool(types.single) and types.single <= {*_NUMBERS, bool, type(None)}
        case _:
            return value
    return _NO_VALUE if wrong else value


@functools.cache
def _types_by_field(model: type[BaseModel]) -> dict[str, _Types]:
    return {name: _types_of([field.annotation]) for name, field in model.model_fields.items()}


def _types_of(annotations: Iterable[Any]) -> _Types:
    alternatives = [one for annotation in annotations for one in _alternatives(annotation)]
    items = [item for one in alternatives if get_origin(one) in (list, tuple) for item in get_args(one)]
    literals = [value for one in alternatives if get_origin(one) is Literal for value in get_args(one)]
    words = [value for value in literals if isinstance(value, str)]
    single = [one for one in alternatives if isinstance(one, type)]
    single += [type(value) for value in literals if not isinstance(value, str)]
    return _Types(frozenset(single), frozenset(words), _types_of(items) if items else None)


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
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

    @property
    def word(self) -> str:
        """As in sentences."""
        return self.name.lower()


class SpecError(ValueError):
    """A request that does not fit its teacher. `field` is a dotted path in the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
