"""Request ids and the log line of each request."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient
from structlog.testing import LogCapture

from api.app import create_app
from api.http.context import InContext
from api.http.request_ids import current_request_id
from jobs.ledger import keys
from service.log_setup import set_up_logs
from tests.worker.bench import Bench

Lines = list[dict[str, Any]]


@pytest.fixture
def lines() -> Lines:
    """What is logged while the test runs, with what is bound to the context."""
    capture = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    return capture.entries


def requests(lines: Lines) -> Lines:
    return [line for line in lines if line["event"] == "request"]


def test_one_line_for_each_request(api: TestClient, bench: Bench, lines: Lines) -> None:
    with bench.database.session() as session:
        key, secret = keys.create(session, "ci")
    headers = {"Authorization": f"Bearer {secret}", "X-Request-Id": "mine-1"}
    answer = api.get("/v1/jobs/job_none?wait=0", headers=headers)
    [line] = requests(lines)
    assert line.pop("seconds") > 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "request_id": "mine-1",
        "method": "GET",
        "route": "/v1/jobs/{job_id}",
        "path": "/v1/jobs/job_none",
        "status": 404,
        "owner": key.id,
        "bytes": len(answer.content),
        "client": "127.0.0.1",
    }
    assert secret not in str(lines)


def test_health_and_metrics_are_quiet(api: TestClient, lines: Lines) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert api.get(path).status_code == 200
    assert [(line["route"], line["log_level"]) for line in requests(lines)] == [
        ("/healthz", "debug"),
        ("/readyz", "debug"),
        ("/metrics", "debug"),
    ]


def test_every_answer_has_an_id(api: TestClient, bench: Bench) -> None:
    job_id = bench.job()
    answers = [
        api.get("/v1/jobs"),
        api.get(f"/v1/jobs/{job_id}"),
        api.get("/v1/jobs/job_none"),
        api.get("/no/such/path"),
        api.delete("/v1/jobs"),
        api.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}),
        api.get("/v1/jobs", headers={"Host": "a b"}),
        api.get("/healthz"),
    ]
    assert {answer.status_code for answer in answers} == {200, 400, 404, 405}
    ids = [answer.headers["X-Request-Id"] for answer in answers]
    assert all(one.startswith("req_") for one in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("sane", ["a", "0d1f-22", "01J/x=:y.z_@+", "x" * 100])
def test_the_callers_id_is_kept(api: TestClient, sane: str) -> None:
    assert api.get("/healthz", headers={"X-Request-Id": f" {sane}\t"}).headers["X-Request-Id"] == sane


@pytest.mark.parametrize("insane", ["", "x" * 101, "a b", "é", "a\x0bb", '"quoted"', "-", "<b>"])
def test_an_id_that_can_not_be_logged_is_replaced(api: TestClient, insane: str) -> None:
    answer = api.get("/healthz", headers={"X-Request-Id": insane.encode("latin-1")})
    assert answer.headers["X-Request-Id"].startswith("req_")


def test_two_ids_are_none(api: TestClient) -> None:
    answer = api.get("/healthz", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
    assert answer.headers["X-Request-Id"].startswith("req_")


def test_all_lines_of_a_request_have_its_id_and_code_in_threads_knows_it(bench: Bench, lines: Lines) -> None:
    app = create_app(bench.settings, keyless=True)
    seen: list[str | None] = []

    @app.get("/v1/in-a-thread")
    def in_a_thread(_: InContext) -> None:
        seen.append(current_request_id())
        structlog.get_logger().info("from inside")

    with TestClient(app, base_url="http://127.0.0.1") as api:
        request_id = api.get("/v1/in-a-thread").headers["X-Request-Id"]
        assert seen == [request_id]
        assert [line["request_id"] for line in lines if line["event"] in {"from inside", "request"}] == [request_id] * 2
        assert api.get("/v1/in-a-thread").headers["X-Request-Id"] != request_id
    assert current_request_id() is None


def test_a_failure_of_the_service_has_an_id_and_a_line_too(bench: Bench, lines: Lines) -> None:
    app = create_app(bench.settings, keyless=True)

    @app.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("a bug")

    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as api:
        answer = api.get("/v1/broken", headers={"X-Request-Id": "mine-2"})
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
    assert answer.headers["X-Request-Id"] == "mine-2"
    [line] = requests(lines)
    assert (line["status"], line["log_level"], line["request_id"]) == (500, "warning", "mine-2")


def test_the_lines_are_json_with_the_id_where_the_format_is_json(
    api: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logs("json")
    api.get("/v1/jobs", headers={"X-Request-Id": "mine-3"})
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    [line] = requests(written)
    assert (line["request_id"], line["route"], line["owner"], line["level"]) == ("mine-3", "/v1/jobs", "local", "info")


def test_nobody_writes_control_characters_into_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("console")
    hostile = "a\x1b[2J\x08\x07\x9b\u2028\u202eé"
    structlog.get_logger("here").warning("request", path=hostile, lines="1\n2", names=[hostile], none=None, n=1.5)
    logging.getLogger("library").warning("first %s\nsecond", hostile)
    try:
        raise ValueError(hostile)
    except ValueError:
        structlog.get_logger("here").exception("failed")
    written = capsys.readouterr().err
    assert all(line.isprintable() for line in written.split("\n"))
    assert written.count(r"a\x1b[2J\x08\x07\x9b\u2028\u202eé") == 4
    assert r"1\n2" in written
    assert "\nsecond" in written
    assert "n=1.5" in written
