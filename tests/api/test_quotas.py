"""Quotas as callers meet them: 429 with what is used and allowed, and administrators who set them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from tests.api.conftest import serving
from tests.api.test_studies import request as study_request
from tests.worker.bench import Bench

LIMITS = {"quota_jobs_queued": 1, "quota_jobs_running": 5, "quota_bytes": 1000}
BINARY = {"Content-Type": "application/octet-stream", "Upload-Offset": "0"}


@pytest.fixture
def limited(bench: Bench) -> Iterator[TestClient]:
    settings = bench.settings.model_copy(update=LIMITS)
    with TestClient(create_app(settings, keyless=True), base_url="http://127.0.0.1:8000") as client:
        yield client


def refused(answer: Any) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["type"]) == (429, "/problems/quota-exceeded"), answer.text
    assert int(answer.headers["Retry-After"]) > 0
    quota: dict[str, Any] = problem["quota"]
    return quota


def test_who_has_used_up_a_quota_is_told_what_is_used_and_allowed(limited: TestClient, bench: Bench) -> None:
    teacher = bench.teacher()
    body = {"teacher": teacher, "dataset": {"builtin": "digits"}, "student": {"depth": 8}}
    key = {"Idempotency-Key": "once"}
    made = limited.post("/v1/jobs", json=body, headers=key)
    assert made.status_code == 202
    # The same request again makes nothing, so it needs no room.
    assert limited.post("/v1/jobs", json=body, headers=key).json()["id"] == made.json()["id"]
    assert refused(limited.post("/v1/jobs", json=body)) == {"name": "jobs_queued", "used": 1, "allowed": 1}
    refused(limited.post(f"/v1/jobs/{made.json()['id']}/rerun", json={}))
    refused(limited.post("/v1/studies", json=study_request(teacher, methods=["lit"])))

    announced = {"kind": "dataset", "filename": "d.npz", "size": 900}
    upload = limited.post("/v1/uploads", json=announced).json()["id"]
    used = 900 + len(b"a teacher")
    assert refused(limited.post("/v1/uploads", json=announced)) == {"name": "bytes", "used": used, "allowed": 1000}

    me = limited.get("/v1/me").json()
    assert me["usage"] == {"jobs_queued": 1, "jobs_running": 0, "bytes": used}
    assert me["quotas"] == {"jobs_queued": 1, "jobs_running": 5, "bytes": 1000}
    path = "/v1/owners/local/quotas"
    assert limited.put(path, json={"bytes": 500, "jobs_queued": None}).json()["quotas"] == {
        "jobs_queued": None,
        "jobs_running": 5,
        "bytes": 500,
    }
    assert limited.post("/v1/jobs", json=body).status_code == 202
    assert refused(limited.patch(f"/v1/uploads/{upload}", content=b"x", headers=BINARY))["allowed"] == 500
    assert limited.get(f"/v1/uploads/{upload}").json()["received"] == 0
    assert limited.put(path, json={}).json() == limited.get(path).json()
    assert limited.get(path).json()["quotas"] == me["quotas"]
    assert limited.patch(f"/v1/uploads/{upload}", content=b"x", headers=BINARY).status_code == 204
    assert [entry["object_id"] for entry in limited.get("/v1/audit?action=quotas.set").json()["items"]] == ["local"] * 2


def test_an_owner_may_have_any_name_of_the_issuer(limited: TestClient) -> None:
    path = "/v1/owners/auth0%7Chttps://issuer.example/a%2Fb/quotas"
    assert limited.put(path, json={"jobs_running": 2}).json()["owner"] == "auth0|https://issuer.example/a/b"
    for body in ({"jobs_running": -1}, {"jobs_running": "many"}, {"gpus": 1}, {"bytes": 2**63}):
        assert limited.put(path, json=body).status_code == 422


def test_a_form_without_room_is_refused_before_it_is_read(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"quota_jobs_queued": 1, "quota_bytes": 10 << 20})

    def send_head(address: tuple[str, int], length: int, *headers: str) -> bytes:
        """The answer to a form of which no byte is sent."""
        head = ["POST /v1/jobs HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", *headers]
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall("\r\n".join([*head, "Content-Type: multipart/form-data; boundary=x", "", ""]).encode())
            return connection.recv(1 << 16)

    with serving(bench) as address:
        answer = send_head(address, 20 << 20)
        assert answer.startswith(b"HTTP/1.1 429 ")
        body = {"teacher": bench.teacher(), "dataset": {"builtin": "digits"}, "student": {"depth": 8}}
        url = f"http://{address[0]}:{address[1]}/v1/jobs"
        assert httpx.post(url, json=body, headers={"Idempotency-Key": "once"}).status_code == 202
        assert send_head(address, 1000).startswith(b"HTTP/1.1 429 ")
        # A request that is repeated makes nothing, so it needs no room.
        part = {"job": (None, json.dumps(body))}
        assert httpx.post(url, files=part).status_code == 429
        repeated = httpx.post(url, files=part, headers={"Idempotency-Key": "once"})
        assert repeated.json()["type"] == "/problems/idempotency-key-reused"
