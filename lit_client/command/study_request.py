"""From the options of a command to the body of `POST /v1/studies`, checked before anything is uploaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lit_client.command.job_request import BadRequest, Body, read_json_object, refused, with_placeholders
from lit_spec.mistakes import mistakes
from lit_spec.requests.study import STUDY_REQUESTS, StudyKind

T = TypeVar("T", int, float)


def read_study(path: Path) -> Body:
    """The request of a study from a JSON file. Raises BadRequest."""
    body = read_json_object(path)
    if not isinstance(body.get("job", {}), dict):
        raise BadRequest(f"{path}: `job` must be a JSON object, the request of a job.")
    return body


def check_study(body: Body) -> None:
    """Check the request as the service would, with placeholders for what is still to be uploaded. Raises BadRequest."""
    try:
        model = STUDY_REQUESTS[StudyKind(str(body.get("kind")))]
    except ValueError:
        raise BadRequest(f"kind: must be one of {', '.join(STUDY_REQUESTS)}.") from None
    request = {**body, "job": with_placeholders(body.get("job", {}))}
    try:
        model.model_validate(request)
    except ValidationError as error:
        raise refused("study", mistakes(model, request, error)) from error


def parse_arms(words: list[str]) -> list[Any]:
    """Names of arms, or arms as JSON objects. Raises BadRequest."""
    return [_parse_object(word) if word.lstrip().startswith("{") else word for word in words]


def parse_numbers(option: str, text: str, kind: type[T]) -> list[T]:
    """`0,1,2` as a list. Raises BadRequest."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise BadRequest(f"{option} {text!r} is not a list of numbers: write them as 1,2,4.") from None


def _parse_object(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError as error:
        raise BadRequest(f"--method {word!r} is not a JSON object: {error}.") from error
