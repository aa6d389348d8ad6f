"""The OpenAPI document: FastAPI's own, and what FastAPI has no means to say. No schema is written by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts

from api.http import auth, problems
from api.http.forms import FormRoute


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
