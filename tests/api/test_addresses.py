"""Paths and query parameters: what a route doesn't take is refused, not ignored."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient

from tests.api.test_access import make_key
from tests.worker.bench import Bench


def test_no_route_of_an_owner_ignores_a_parameter_that_it_does_not_take(api: TestClient, bench: Bench) -> None:
    assert isinstance(api.app, FastAPI)
    ids = {"job_id": bench.job(), "upload_id": bench.dataset(), "library": "timm", "name": "x"}
    ids |= {"key_id": "key_none", "owner": "team"}
    asked = 0
    for found in iter_route_contexts(api.app.routes):
        route = found.original_route
        if not isinstance(route, APIRoute) or not route.path.startswith("/v1/"):
            continue
        path = found.path_format.format(**ids, study_id="study_none", webhook_id="webhook_none", delivery_id="msg_none")
        for method in route.methods:
            answer = api.request(method, path, params={"nobody_takes_this": "1"})
            assert answer.status_code == 422, f"{method} {path}: {answer.text}"
            if method != "HEAD":
                [error] = answer.json()["errors"]
                assert error["field"] == "nobody_takes_this"
                assert error["message"].startswith("unknown parameter: ")
            asked += 1
    assert asked > 25


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/page/main.js",
        "/healthz",
        "/readyz",
        "/docs",
        "/openapi.json",
        "/problems/not-found",
        "/static-offline-docs/swagger-ui.css",
    ],
)
def test_what_needs_no_key_takes_any_parameter(api: TestClient, path: str) -> None:
    """Load balancers and browsers add one, so that no cache answers."""
    assert api.get(path, params={"_": "1", "\0": "2"}).status_code == 200


def test_only_a_caller_with_a_key_learns_what_is_wrong(api: TestClient, bench: Bench) -> None:
    make_key(bench)
    for method, path in (("GET", "/v1/jobs?a=1"), ("POST", "/v1/jobs?a=1"), ("DELETE", "/v1/jobs/%00")):
        assert api.request(method, path).status_code == 401


def test_the_answer_to_very_many_wrong_parameters_is_short(api: TestClient) -> None:
    answer = api.get("/v1/jobs?" + "&".join(map(str, range(11_000))))
    errors = answer.json()["errors"]
    assert answer.status_code == 422
    assert [error["field"] for error in errors] == [*map(str, range(20)), "query"]
    assert errors[-1]["message"] == "has more mistakes: correct these first"
    assert len(answer.content) < 10_000
    assert len(api.get(f"/v1/jobs?{'x' * 60_000}=1").content) < 2_000


@pytest.mark.parametrize(
    ("path", "errors"),
    [
        ("/v1/jobs?status=running", {"status": "unknown parameter: did you mean state?"}),
        ("/v1/jobs?statr=running&limit=0", {"statr": "unknown parameter: did you mean state?"}),
        ("/v1/uploads?state=complete", {"state": "unknown parameter: known are cursor, limit"}),
        ("/v1/architectures/timm/x?deep=1", {"deep": "unknown parameter: this route takes none"}),
        ("/v1/jobs?state=running&state=failed", {"state": "is given 2 times: give it once"}),
        ("/v1/jobs?limit=3&limit=3&tag=a&tag=a&tag=a", {"limit": "is given 2 times: give it once", "tag": None}),
        ("/v1/studies?limit=3&limit=4", {"limit": "is given 2 times: give it once"}),
        ("/v1/jobs?stat%65=running&state=failed", {"state": "is given 2 times: give it once"}),
        ("/v1/jobs?=1", {"": None}),
    ],
)
def test_a_wrong_parameter_is_named(api: TestClient, path: str, errors: dict[str, str | None]) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    found = {error["field"]: error["message"] for error in answer.json()["errors"]}
    assert set(found) == set(errors)
    assert all(said is None or found[field] == said for field, said in errors.items())


@pytest.mark.parametrize("number", ["1_0", "+1", "1.0", " 1", "1 ", "-1", "1e1", "\u0661", ""])
@pytest.mark.parametrize(("path", "name"), [("", "limit"), ("/{job}/events", "after"), ("/{job}/log", "attempt")])
def test_numbers_are_digits(api: TestClient, bench: Bench, path: str, name: str, number: str) -> None:
    path = "/v1/jobs" + path.format(job=bench.job())
    answer = api.get(path, params={name: number})
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, [name])
    assert answer.json()["errors"][0]["message"] == "Input should be a whole number in digits, such as 12"
    assert api.get(path, params={name: "01"}).status_code != 422


@pytest.mark.parametrize("number", ["0.0", "0_0", "+0", "-0"])
def test_an_offset_is_digits(api: TestClient, number: str) -> None:
    made = api.post("/v1/uploads", json={"kind": "dataset", "filename": "d.csv", "size": 3}).json()
    headers = {"Upload-Offset": number, "Content-Type": "application/octet-stream"}
    answer = api.patch(f"/v1/uploads/{made['id']}", content=b"abc", headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "upload-offset")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/%00",
        "/v1/jobs/job_none%00/events?wait=1",
        "/v1/jobs/job_none/artifacts/%00",
        "/v1/uploads/upl_%00",
        "/%00",
    ],
)
def test_nothing_is_called_by_a_name_with_a_nul(api: TestClient, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/jobs?tag=a%00", "tag"),
        ("/v1/jobs?limit=3&name=%00", "name"),
        ("/v1/uploads?cursor=%00", "cursor"),
        ("/v1/jobs/job_none/metrics?name=%00", "name"),
    ],
)
def test_nothing_is_looked_for_with_a_nul(api: TestClient, path: str, field: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert answer.json()["errors"] == [{"field": field, "message": "has a NUL character: leave it out"}]
