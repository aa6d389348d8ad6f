"""Who gets in, what strangers see, and how the service says that it is well."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.app import create_app
from jobs import keys
from tests.worker.bench import Bench


def make_key(bench: Bench, name: str = "ci") -> tuple[str, dict[str, str]]:
    with bench.database.session() as session:
        key, secret = keys.create(session, name)
    return key.id, {"Authorization": f"Bearer {secret}"}


def test_from_the_first_key_on_every_request_needs_one(api: TestClient, bench: Bench) -> None:
    assert api.get("/v1/jobs").status_code == 200
    key_id, header = make_key(bench)
    refused = api.get("/v1/jobs")
    assert (refused.status_code, refused.json()["type"]) == (401, "/problems/unauthorized")
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert api.get("/v1/jobs", headers=header).status_code == 200
    assert api.get("/v1/jobs", headers={"Authorization": "Bearer lit_wrong"}).status_code == 401
    assert api.get("/v1/jobs", headers={"Authorization": "Basic bGl0OmxpdA=="}).status_code == 401
    with bench.database.session() as session:
        keys.revoke(session, key_id)
    assert api.get("/v1/jobs", headers=header).status_code == 401


def test_a_service_on_an_open_address_never_serves_without_a_key(bench: Bench) -> None:
    with TestClient(create_app(bench.settings, keyless=False), base_url="http://127.0.0.1") as api:
        assert api.get("/v1/jobs").status_code == 401
        assert api.get("/healthz").status_code == 200


def test_others_things_are_not_there(api: TestClient, bench: Bench) -> None:
    job, upload = bench.job(), bench.dataset()
    _, header = make_key(bench)
    for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/events", f"/v1/jobs/{job}/metrics", f"/v1/jobs/{job}/log"):
        assert api.get(path, headers=header).status_code == 404
    assert api.get(f"/v1/jobs/{job}/artifacts", headers=header).status_code == 404
    assert api.post(f"/v1/jobs/{job}/cancel", headers=header).status_code == 404
    assert api.post(f"/v1/jobs/{job}/rerun", headers=header, json={}).status_code == 404
    assert api.delete(f"/v1/jobs/{job}", headers=header).status_code == 404
    assert api.get(f"/v1/uploads/{upload}", headers=header).status_code == 404
    assert api.delete(f"/v1/uploads/{upload}", headers=header).status_code == 404
    patch = {"Upload-Offset": "0", "Content-Type": "application/octet-stream", **header}
    assert api.patch(f"/v1/uploads/{upload}", content=b"x", headers=patch).status_code == 404
    assert api.get("/v1/jobs", headers=header).json()["items"] == []
    assert api.get("/v1/uploads", headers=header).json()["items"] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[x"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "https://127.0.0.1:8000"}, 200),
    ],
)
def test_without_keys_no_foreign_page_gets_in(api: TestClient, headers: dict[str, str], status: int) -> None:
    answer = api.get("/v1/jobs", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["type"] == "/problems/forbidden-origin"


def test_health(api: TestClient, bench: Bench) -> None:
    assert api.get("/healthz").json() == {"status": "alive"}
    assert api.get("/readyz").json() == {"status": "ready"}
    with bench.database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert "litc migrate" in answer.json()["detail"]


def test_readiness_names_what_is_missing(bench: Bench, tmp_path: Path) -> None:
    nobody = bench.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(nobody, keyless=True), base_url="http://127.0.0.1") as api:
        detail = api.get("/readyz").json()["detail"]
        assert detail.startswith("redis: ")
        # Without a broker, what is asked for is kept all the same: housekeeping sends the hint later.
        body = {"teacher": bench.teacher(), "dataset": {"builtin": "digits"}, "student": {"depth": 8}}
        assert api.post("/v1/jobs", json=body).status_code == 202


def test_every_error_is_a_problem(api: TestClient) -> None:
    for answer, status, type in (
        (api.get("/nowhere"), 404, "not-found"),
        (api.put("/v1/jobs"), 405, "method-not-allowed"),
        (api.get("/v1/jobs/job_none"), 404, "not-found"),
        (api.get("/v1/jobs", params={"limit": 0}), 422, "invalid-request"),
    ):
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
        problem = answer.json()
        assert (problem["type"], problem["status"]) == (f"/problems/{type}", status)
        assert problem["title"]
        assert problem["detail"]
        assert api.get(problem["type"]).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/jobs/%00", "/v1/jobs?tag=a%00", "/v1/uploads/upl_%00", "/v1/jobs/job_none/metrics?name=%00"]
)
def test_an_address_with_a_nul_is_refused(api: TestClient, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")


def test_the_openapi_document(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"JobRequest", "JobOut", "UploadOut", "Problem", "Schedule"} <= set(schemas)
    create = document["paths"]["/v1/jobs"]["post"]
    assert set(create["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert "202" in create["responses"]
    references = str(document).split("'#/components/schemas/")[1:]
    assert {reference.split("'")[0] for reference in references} <= set(schemas)
    assert api.get("/docs").status_code == 200
