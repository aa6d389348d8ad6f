"""The OpenAPI document, from which the API reference is made, describes every request, parameter, field and problem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from api.http import problems
from docs.site import reference
from lit_spec.requests.study import AnyStudyRequest
from tests.api.test_openapi import BODIES, STREAM

ROOT = Path(__file__).parents[2]
Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return reference.document()


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def bodies(document: dict[str, Any]) -> Iterator[tuple[tuple[str, str], str, dict[str, Any]]]:
    for path, method, operation in operations(document):
        for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
            yield (path, method), media_type, body


def test_every_operation_and_parameter_is_described(document: dict[str, Any]) -> None:
    silent = []
    for path, method, operation in operations(document):
        place = f"{method.upper()} {path}"
        silent += [f"{place}: {key}" for key in ("summary", "description", "tags") if not operation.get(key)]
        silent += [f"{place}: {each['name']}" for each in operation.get("parameters", []) if "description" not in each]
        answers = operation["responses"].items()
        silent += [f"{place}: {code}" for code, each in answers if each["description"] == "Successful Response"]
    assert silent == []


def test_every_field_is_described(document: dict[str, Any]) -> None:
    silent = [
        f"{model}.{field}"
        for model, schema in document["components"]["schemas"].items()
        for field, each in schema.get("properties", {}).items()
        if not each.get("description")
    ]
    assert silent == [], "write a docstring below the field"


def test_every_body_has_an_example_that_the_service_takes(document: dict[str, Any]) -> None:
    models = {operation: TypeAdapter(model) for operation, model in BODIES.items()}
    models["/v1/studies", "post"] = TypeAdapter(AnyStudyRequest)
    for operation, media_type, body in bodies(document):
        if operation == STREAM:
            continue
        found = reference.examples(body, document)
        assert found, f"{operation}: give the model `examples` in its model_config"
        for example in found:
            jsonschema.validate(example, {**body["schema"], "components": document["components"]})
            if operation in models and media_type == "application/json":
                models[operation].validate_python(example)


def test_every_problem_is_explained(document: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in problems.TITLES if f"`{name}`" not in page] == []
    written = reference.pages()[reference.OPERATIONS]
    assert [name for name in problems.TITLES if f"`/problems/{name}`" not in written] == []
