"""From the options of a command to the body of `POST /v1/studies`, checked before anything is uploaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lit_client.command.job_request import DATASET_SOURCES, PLACEHOLDER_ID, BadRequest, Body
from lit_spec.requests.study import STUDY_REQUESTS, StudyKind

T = TypeVar("T", int, float)


def read_study(path: Path) -> Body:
    """A whole request from a JSON file. Raises BadRequest."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRequest(f"{path} is no JSON: {error}.") from error
    if not isinstance(body, dict) or not isinstance(body.get("job", {}), dict):
        raise BadRequest(f"{path} must hold one JSON object, the request of a study, and in it `job`, another one.")
    return body


def check_study(body: Body) -> None:
    """Check the request as the service would, with placeholders for what is still to be uploaded. Raises BadRequest."""
    try:
        model = STUDY_REQUESTS[StudyKind(str(body.get("kind")))]
    except ValueError:
        raise BadRequest(f"kind: must be one of {', '.join(STUDY_REQUESTS)}.") from None
    job = {"teacher": PLACEHOLDER_ID, **body.get("job", {})}
    dataset = job.get("dataset", {})
    if isinstance(dataset, dict) and not set(DATASET_SOURCES) & set(dataset):
        job["dataset"] = {"upload": PLACEHOLDER_ID, **dataset}
    try:
        model.model_validate({**body, "job": job})
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, entry['loc'])) or 'the request'}: {entry['msg'].removeprefix('Value error, ')}"
            for entry in error.errors()
        ]
        raise BadRequest("The service would refuse this study:\n" + "\n".join(lines)) from error


def parse_arms(words: list[str]) -> list[Any]:
    """Names of arms, or arms as JSON objects. Raises BadRequest."""
    return [_parse_object(word) if word.lstrip().startswith("{") else word for word in words]


def parse_numbers(option: str, text: str, kind: type[T]) -> list[T]:
    """`0,1,2` as a list. Raises BadRequest."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise BadRequest(f"{option} {text!r} is no list of numbers: write them as 1,2,4.") from None


def _parse_object(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError as error:
        raise BadRequest(f"--method {word!r} is no JSON object: {error}.") from error
