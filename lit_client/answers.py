"""Reads answers of the service."""

from __future__ import annotations

from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from lit_client.errors import UnexpectedAnswer
from lit_spec.answers.base import Answer

AnswerT = TypeVar("AnswerT", bound=Answer)


def parse(model: type[AnswerT], response: httpx.Response) -> AnswerT:
    """Read an answer's body as `model`. Raises UnexpectedAnswer for anything else."""
    try:
        return model.read(response.content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise UnexpectedAnswer(
            f"{response.request.url} answered {response.status_code}, but not as a LIT service does: "
            f"{where}: {first['msg']}."
        ) from error


def parse_object(response: httpx.Response) -> dict[str, Any]:
    """Read an answer's body as a JSON object. Raises UnexpectedAnswer for anything else."""
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnexpectedAnswer(f"{response.request.url} answered {response.status_code}, but not with a JSON object.")
    return found
