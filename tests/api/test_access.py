"""Who gets in, what strangers see, and how the service says that it is well."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from starlette.types import Message

from api import readiness
from api.app import create_app
from jobs.ledger import audit, keys
from lit_spec.scopes import Scope
from tests.api.conftest import hear_all, serving
from tests.worker.bench import Bench


def make_key(bench: Bench, name: str = "ci") -> tuple[str, dict[str, str]]:
    with bench.database.session() as session:
        key, secret = keys.create(session, name)
    return key.id, {"Authorization": f"Bearer {secret}"}


def test_from_the_first_key_on_every_request_needs_one(api: TestClient, bench: Bench) -> None:
    assert api.get("/v1/jobs").status_code == 200
    key_id, header = make_key(bench)
    hear_all(api, bench)
    refused = api.get("/v1/jobs")
    assert (refused.status_code, refused.json()["type"]) == (401, "/problems/unauthorized")
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert api.get("/v1/jobs", headers=header).status_code == 200
    assert api.get("/v1/jobs", headers={"Authorization": "Bearer lit_wrong"}).status_code == 401
    assert api.get("/v1/jobs", headers={"Authorization": "Basic bGl0OmxpdA=="}).status_code == 401
    with bench.database.session() as session:
        keys.revoke(session, key_id)
    hear_all(api, bench)
    assert api.get("/v1/jobs", headers=header).status_code == 401


def test_a_service_on_an_open_address_never_serves_without_a_key(bench: Bench) -> None:
    with TestClient(create_app(bench.settings, keyless=False), base_url="http://127.0.0.1") as api:
        assert api.get("/v1/jobs").status_code == 401
        assert api.get("/healthz").status_code == 200


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a\x07", "a\x9bb", "a\u2028b", "a\u202eb"])
def test_names_with_control_characters_are_refused(api: TestClient, bench: Bench, name: str) -> None:
    job = {"teacher": bench.teacher(), "dataset": {"builtin": "digits"}}
    hook = {"url": "https://hooks.example.com/", "events": ["job.failed"]}
    for path, body in (
        ("/v1/jobs", {**job, "student": {"depth": 8}}),
        ("/v1/studies", {"kind": "compare", "methods": ["lit"], "job": job}),
        ("/v1/webhooks", hook),
        ("/v1/keys", {}),
    ):
        answer = api.post(path, json={**body, "name": name})
        assert answer.status_code == 422, path
        assert "name: has a control character" in answer.json()["detail"]


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
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[x"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "https://127.0.0.1:8000"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_without_keys_no_foreign_page_gets_in(api: TestClient, headers: dict[str, str], status: int) -> None:
    answer = api.get("/v1/jobs", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["type"] == "/problems/forbidden-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/docs/oauth2-redirect",
        "/static-offline-docs/swagger-ui.css",
        "/openapi.json",
        "/page/page.css",
        "/healthz",
        "/v1/jobs",
        "/v1/nowhere",
        "/nowhere",
    ],
)
def test_no_answer_may_be_framed_or_used_by_other_pages(api: TestClient, path: str) -> None:
    # A link on another page may lead to the pages: they show nothing before their own scripts ask.
    site = "cross-site" if path in {"/", "/docs"} else "same-origin"
    answer = api.get(path, headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})
    assert answer.status_code == (404 if "where" in path else 200) or path.startswith("/page")
    policy = answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert ("'unsafe-inline'" in policy) == path.startswith("/docs")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_no_redirect_leads_to_the_host_of_a_request(api: TestClient) -> None:
    for path in ("/v1/jobs/", "/v1/studies/", "/docs/", "/metrics/"):
        answer = api.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
        assert "Location" not in answer.headers
        assert answer.status_code in {403, 404}, path
        assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("trusted", "sent", "noted"),
    [
        (None, "192.0.2.7", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.0/8", "2001:db8::1%" + "x" * 5000, "2001:db8::1"),
        ("127.0.0.1", "x" * 5000, None),
        ("10.0.0.0/8", "192.0.2.7", "127.0.0.1"),
    ],
)
def test_only_proxies_that_the_setting_names_say_where_a_request_comes_from(
    bench: Bench, trusted: str | None, sent: str, noted: str | None
) -> None:
    with bench.database.session() as session:
        _, secret = keys.create(session, "reader", scopes=[Scope.READ])
    headers = {"Authorization": f"Bearer {secret}", "X-Forwarded-For": sent}
    with serving(bench, trusted_proxies=trusted) as (host, port):
        path = "/v1/uploads/%1B%5B2J%00" + "y" * 5000
        assert httpx.delete(f"http://{host}:{port}{path}", headers=headers).status_code == 403
    with bench.database.session() as session:
        [entry] = audit.list_page(session, action="request.deny")
        assert entry.address == noted
        assert entry.detail is not None
        assert entry.detail["path"].startswith("/v1/uploads/\\x1b[2J\\x00yy")
        assert len(entry.detail["path"]) < 300


def test_health(api: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)
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
        # Without a broker, what is asked for is kept all the same: housekeeping sends the wake-up later.
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


def test_the_documentation_needs_no_other_server(api: TestClient) -> None:
    page = api.get("/docs").text
    assert "swagger-ui" in page
    loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
    assert len(loaded) == 3
    for path in loaded:
        assert path.startswith("/")
        assert api.get(path).status_code == 200
    assert api.get("/redoc").status_code == 404
    assert api.get("/static-offline-docs/none").headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "text/plain"])
def test_a_missing_key_is_told_before_a_bad_body(api: TestClient, bench: Bench, kind: str) -> None:
    make_key(bench)
    for path in ("/v1/jobs", "/v1/uploads"):
        assert api.post(path, content=b"{", headers={"Content-Type": kind}).status_code == 401


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/uploads", "/v1/jobs/job_none/rerun"])
def test_a_body_that_says_it_is_too_large_is_not_waited_for(address: tuple[str, int], path: str) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head_of_a_post(path, 1 << 40) + b"{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def head_of_a_post(path: str, length: int) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/jobs", "application/json"),
        ("/v1/jobs", "multipart/form-data; boundary=x"),
        ("/v1/uploads", "application/json"),
    ],
)
def test_a_caller_who_hangs_up_is_no_failure_of_the_service(api: TestClient, path: str, kind: str) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = {"host": "127.0.0.1", "content-type": kind, "content-length": "100"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    assert api.portal is not None
    api.portal.call(api.app, scope, receive, send)
    assert sent[0]["status"] == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("POST", "/v1/uploads"),
        ("POST", "/v1/jobs/job_none/rerun"),
        ("POST", "/v1/jobs/job_none/cancel"),
        ("DELETE", "/v1/jobs/job_none"),
        ("PATCH", "/v1/uploads/upl_none"),
        ("GET", "/v1/jobs/job_none"),
        ("POST", "/nowhere"),
    ],
)
@pytest.mark.parametrize("length", [None, str(3 << 20)])
def test_too_large_a_body_is_a_problem(address: tuple[str, int], method: str, path: str, length: str | None) -> None:
    def body() -> Iterator[bytes]:
        yield from [b" " * (1 << 20)] * 3

    headers = {"Content-Type": "application/json", "Upload-Offset": "0"}
    headers |= {} if length is None else {"Content-Length": length}
    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}", timeout=20) as api:
        answer = api.request(method, path, content=body(), headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.headers["Content-Type"] == "application/problem+json"
