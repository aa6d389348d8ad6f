"""Request bodies as JSON, read so that every mistake in them is named."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from api.problems import FieldError, Problem, invalid
from jobs import jsonb

ModelT = TypeVar("ModelT", bound=BaseModel)

JSON_BYTES = 1 << 20
"""A job specification is a few kilobytes."""


async def read_json(request: Request, accepted: Sequence[str] = ("application/json",)) -> dict[str, Any]:
    """The body as a JSON object. Raises Problem 400, 413 or 415."""
    sent = content_type(request)
    if sent not in accepted:
        detail = f"send the body as {' or '.join(accepted)}, not {sent or 'without a Content-Type'}"
        raise Problem(415, "unsupported-media-type", detail)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_BYTES:
            raise Problem(413, "too-large", f"a JSON body may have {JSON_BYTES} bytes")
    return parse_json(bytes(body))


def content_type(request: Request) -> str:
    """Without its parameters, in lower case."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object that the ledger can hold. Raises Problem 400."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as bad:
        raise Problem(400, "bad-request", f"the body is no JSON: {bad}") from bad
    try:
        jsonb.check(value)
    except (ValueError, RecursionError) as bad:
        raise Problem(400, "bad-request", f"the body has what can't be stored: {bad}") from bad
    if not isinstance(value, dict):
        raise Problem(400, "bad-request", "the body must be a JSON object")
    return value


def validate(model: type[ModelT], value: dict[str, Any]) -> ModelT:
    """Raises Problem 422 that names each wrong field and says what would be right."""
    try:
        return model.model_validate(value)
    except ValidationError as wrong:
        raise invalid(_field_error(model, entry) for entry in wrong.errors()) from wrong


def merge_patch(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7396: null removes, objects merge, everything else replaces."""
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            inner = result.get(name)
            result[name] = merge_patch(inner if isinstance(inner, dict) else {}, value)
        else:
            result[name] = value
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _field_error(model: type[BaseModel], entry: Any) -> FieldError:
    location = [str(part) for part in entry["loc"]]
    field = ".".join(location) or "body"
    if entry["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.7)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return FieldError(field, f"unknown field: {hint}")
    return FieldError(field, entry["msg"].removeprefix("Value error, "))


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The names that an object at `path` inside a request may have."""
    models = [model]
    for name in path:
        inner = [m for outer in models if name in outer.model_fields for m in _models_in(outer, name)]
        # A path also names the chosen kind of a union, which is no field.
        models = inner or models
    return sorted({name for found in models for name in found.model_fields})


def _models_in(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    return list(_models(model.model_fields[name].annotation))


def _models(annotation: Any) -> typing.Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in typing.get_args(annotation):
        yield from _models(part)
