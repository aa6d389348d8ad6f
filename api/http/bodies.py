"""Request bodies as JSON, read so that every mistake in them is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from api.http.problems import FieldError, Problem, invalid
from jobs.database import jsonb
from lit_spec.mistakes import mistakes

ModelT = TypeVar("ModelT", bound=BaseModel)

JSON_BYTES = 1 << 20
"""A job specification is a few kilobytes."""


async def read_json(request: Request, accepted: Sequence[str] = ("application/json",)) -> dict[str, Any]:
    """The body as a JSON object. Raises Problem 400, 413 or 415."""
    sent = content_type(request)
    if sent not in accepted:
        detail = f"send the body as {' or '.join(accepted)}, not {sent or 'without a Content-Type'}"
        raise Problem(415, "unsupported-media-type", detail)
    too_large = Problem(413, "too-large", f"a JSON body may have {JSON_BYTES} bytes")
    if (content_length(request) or 0) > JSON_BYTES:
        raise too_large  # rather than wait for what won't be read
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_BYTES:
            raise too_large
    return parse_json(bytes(body))


def content_type(request: Request) -> str:
    """Without its parameters, in lower case."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def content_length(request: Request) -> int | None:
    """In bytes; None where the request doesn't say it."""
    announced = request.headers.get("Content-Length", "")
    return int(announced) if announced.isdecimal() else None


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
        raise invalid(FieldError(found.field, found.message) for found in mistakes(model, value, wrong)) from wrong


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
