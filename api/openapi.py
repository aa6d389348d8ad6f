"""The OpenAPI document: FastAPI's own, and what FastAPI has no means to say. No schema is written by hand."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts

from api.http import auth, problems
from api.http.forms import FormRoute

PATH_PARAMETERS = {
    "upload_id": "The upload's id, `upl_…`.",
    "job_id": "The job's id, `job_…`.",
    "study_id": "The study's id, `study_…`.",
    "webhook_id": "The webhook's id, `webhook_…`.",
    "delivery_id": "The message's id, `msg_…`.",
    "key_id": "The key's id, `key_…`.",
    "owner": "The owner's name.",
    "library": "`torchvision` or `timm`.",
    "name": "The name in the list that the path begins with.",
}
"""What the parts of paths are, in all routes alike."""


def install(app: FastAPI) -> None:
    """Serve the completed document as /openapi.json."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _complete(document, _document_forms(app))
            _name_scopes(document, app)
        assert app.openapi_schema is not None  # noqa: S101 - for the type checker: `generate` has set it
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document_forms(app: FastAPI) -> dict[str, Any]:
    """The form routes alone. They share paths with JSON routes, and FastAPI keeps one operation per path and method."""
    routes = [found for found in iter_route_contexts(app.routes) if isinstance(found.original_route, FormRoute)]
    return get_openapi(title=app.title, version=app.version, routes=routes)


def _complete(document: dict[str, Any], forms: dict[str, Any]) -> None:
    for path, operations in forms["paths"].items():
        for method, operation in operations.items():
            content = document["paths"][path][method]["requestBody"]["content"]
            content.update(operation["requestBody"]["content"])
    for operations in document["paths"].values():
        for operation in operations.values():
            _name_problem_media_type(operation)
            _describe_answers(operation)
            _describe_path(operation)


def _name_scopes(document: dict[str, Any], app: FastAPI) -> None:
    """Say which scope each operation needs, as a role (OpenAPI 3.1, security requirement object)."""
    routes = [found.original_route for found in iter_route_contexts(app.routes)]
    for route in routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            if "security" in operation:
                # The empty one: a service without keys answers its own machine.
                operation["security"] = [{auth.SECURITY_SCHEME: [auth.scope_of(route, method).value]}, {}]


def _name_problem_media_type(operation: dict[str, Any]) -> None:
    """FastAPI documents the model of a response under the media type of the route."""
    problem = operation["responses"]["default"]
    [schema] = problem["content"].values()
    problem["content"] = {problems.MEDIA_TYPE: schema}


def _describe_answers(operation: dict[str, Any]) -> None:
    """In the words of HTTP, where the route has none of its own; FastAPI calls every answer a successful response."""
    for code, response in operation["responses"].items():
        if code == "default":
            response["description"] = "What is wrong, and what to do."
        elif response["description"] == "Successful Response":
            response["description"] = HTTPStatus(int(code)).phrase


def _describe_path(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path" and parameter["name"] in PATH_PARAMETERS:
            parameter.setdefault("description", PATH_PARAMETERS[parameter["name"]])
