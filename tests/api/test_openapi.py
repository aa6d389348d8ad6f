"""The OpenAPI document: FastAPI generates it from the typed routes, and it is complete."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.models import Schema
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient
from pydantic import BaseModel

from api.http.bodies import CreationRoute, JsonRoute
from api.http.forms import FormRoute
from lit_spec import JobRequest, LibraryRequest
from lit_spec.requests.access import KeyRequest, QuotasRequest, RotateRequest
from lit_spec.requests.study import CompareRequest, DepthRequest, PlanRequest, SearchRequest
from lit_spec.requests.upload import SentParts, UploadRequest, WeightsRequest
from lit_spec.requests.webhook import WebhookChange, WebhookRequest

STREAM = ("/v1/uploads/{upload_id}", "patch")
"""The only body without a schema: bytes, which FastAPI would read into memory if they were declared."""
BODIES: dict[tuple[str, str], type[BaseModel]] = {
    ("/v1/jobs", "post"): JobRequest,
    ("/v1/uploads", "post"): UploadRequest,
    ("/v1/uploads/{upload_id}/architecture", "put"): LibraryRequest,
    ("/v1/uploads/{upload_id}/weights", "put"): WeightsRequest,
    ("/v1/webhooks", "post"): WebhookRequest,
    ("/v1/webhooks/{webhook_id}", "patch"): WebhookChange,
    ("/v1/uploads/{upload_id}/complete", "post"): SentParts,
    ("/v1/keys", "post"): KeyRequest,
    ("/v1/keys/{key_id}/rotate", "post"): RotateRequest,
    ("/v1/owners/{owner}/quotas", "put"): QuotasRequest,
}
ADMINISTRATION = ("/v1/keys", "/v1/owners/", "/v1/audit")
REFERENCE = "#/components/schemas/{model}"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def routes(api: TestClient) -> list[APIRoute]:
    assert isinstance(api.app, FastAPI)
    found = [context.original_route for context in iter_route_contexts(api.app.routes)]
    return [route for route in found if isinstance(route, APIRoute)]


def test_it_is_served(api: TestClient, document: dict[str, Any]) -> None:
    assert api.get("/openapi.json").json() == document


def test_every_body_is_the_schema_of_its_model(document: dict[str, Any]) -> None:
    bodies = {
        (path, method): {media_type: body.get("schema") for media_type, body in content.items()}
        for path, method, operation in operations(document)
        if (content := operation.get("requestBody", {}).get("content"))
    }
    schemas = document["components"]["schemas"]
    assert bodies[("/v1/jobs", "post")].pop("multipart/form-data") == {"$ref": REFERENCE.format(model="JobForm")}
    for operation, model in BODIES.items():
        assert bodies.pop(operation) == {"application/json": {"$ref": REFERENCE.format(model=model.__name__)}}
        own = model.model_json_schema(ref_template=REFERENCE)
        own.pop("$defs", None)
        # The document leaves out what is null, and writes numbers as floats.
        assert schemas[model.__name__] == jsonable_encoder(Schema(**own), by_alias=True, exclude_none=True)
    study = bodies.pop(("/v1/studies", "post"))["application/json"]
    kinds = {"compare": CompareRequest, "search": SearchRequest, "depth": DepthRequest, "plan": PlanRequest}
    assert study["discriminator"]["mapping"] == {k: REFERENCE.format(model=m.__name__) for k, m in kinds.items()}
    assert {one["$ref"] for one in study["oneOf"]} == set(study["discriminator"]["mapping"].values())
    patch = bodies.pop(("/v1/jobs/{job_id}/rerun", "post"))["application/merge-patch+json"]
    assert patch["type"] == "object"
    assert bodies == {STREAM: {"application/octet-stream": None}}


def test_a_form_has_its_parts(document: dict[str, Any]) -> None:
    form = document["components"]["schemas"]["JobForm"]
    assert set(form["properties"]) == {"teacher", "discriminator", "dataset", "job"}
    assert form["required"] == ["job"]
    assert form["properties"]["job"]["contentMediaType"] == "application/json"
    for name in ("teacher", "discriminator", "dataset"):
        assert form["properties"][name]["anyOf"][0]["type"] == "string"


def test_no_schema_is_written_by_hand(api: TestClient) -> None:
    by_hand = {(route.path, *(m.lower() for m in route.methods or ())) for route in routes(api) if route.openapi_extra}
    assert by_hand == {STREAM}


def test_every_typed_body_is_read_within_limits(api: TestClient) -> None:
    """FastAPI's own reading has no limit for JSON, takes NaN, and reads before it asks for a key."""
    typed = [route for route in routes(api) if route.body_field is not None]
    assert len(typed) == 13
    assert {type(route) for route in typed} == {JsonRoute, CreationRoute, FormRoute}


def test_creation_routes_pass_all_that_their_endpoints_declare(api: TestClient) -> None:
    """FastAPI documents the endpoint's parameters, but doesn't fill them in."""
    creating = [route for route in routes(api) if isinstance(route, CreationRoute)]
    assert [route.path for route in creating] == ["/v1/jobs"]
    for route in creating:
        _body, *others = inspect.signature(route.endpoint).parameters
        assert others == ["sent", "owner", "context", "idempotency_key"]
        assert not route.dependencies


def test_every_answer_and_error_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    references = str(document).split("'#/components/schemas/")[1:]
    assert {reference.split("'")[0] for reference in references} <= set(schemas)
    assert {"Job", "Study", "Upload", "Problem", "Schedule", "Arm"} <= set(schemas)
    assert not {"HTTPValidationError", "ValidationError"} & set(schemas)
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, method, operation in operations(document):
        problem = operation["responses"]["default"]["content"]
        assert problem == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        assert "422" not in operation["responses"]
        scope = "admin" if path.startswith(ADMINISTRATION) else "read" if method in {"get", "head"} else "submit"
        assert operation.get("security") == ([{"key": [scope]}, {}] if path.startswith("/v1/") else None)


def test_what_has_an_etag_takes_conditions(document: dict[str, Any]) -> None:
    heads = {path for path, method, _ in operations(document) if method == "head"}
    for path in heads:
        for method in ("get", "head"):
            operation = document["paths"][path][method]
            headers = {each["name"].lower() for each in operation["parameters"] if each["in"] == "header"}
            assert {"if-match", "if-none-match"} <= headers, (method, path)
            assert "304" in operation["responses"], (method, path)


def test_what_can_be_asked_for_by_head(document: dict[str, Any]) -> None:
    heads = {path for path, method, _ in operations(document) if method == "head"}
    assert heads == {
        "/v1/uploads/{upload_id}",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/artifacts/{name}",
        "/v1/studies/{study_id}",
    }
