"""Tracking servers that lie, redirect, dawdle and answer rubbish, as real HTTP servers beside a real ledger."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from jobs.database.models import TrackedRun
from tests.worker.bench import OWNER, Bench
from tests.worker.mlflow_services import TrackedJobs, tracked_jobs
from worker.tracking.connection import one_line, unsupported_variable

API = "/api/2.0/mlflow/"
OWN_ARTIFACTS = "mlflow-artifacts:/1/r/artifacts"


@dataclass
class Answer:
    body: Any = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """Answers as a tracking server with one experiment and one run, except where `answers` says otherwise."""

    answers: dict[str, Callable[[], Answer]] = field(default_factory=dict)
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Authorization of each request."""
    sent: dict[str, list[Any]] = field(default_factory=dict)
    """The bodies, by path."""
    port: int = 0

    STANDARD: ClassVar[dict[str, Any]] = {
        "experiments/get-by-name": {"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}},
        "runs/create": {"run": {"info": {"run_id": "r"}}},
        "runs/get": {"run": {"info": {"artifact_uri": OWN_ARTIFACTS}}},
        "model-versions/create": {"model_version": {"version": "1"}},
    }

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.seen]

    def answer(self, path: str) -> Answer:
        return self.answers.get(path, lambda: Answer(self.STANDARD.get(path, {})))()


@contextmanager
def serving() -> Iterator[Server]:
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path.removeprefix(API)
            content = self.rfile.read(int(self.headers["Content-Length"] or 0))
            made.seen.append((self.command, path, self.headers["Authorization"]))
            made.sent.setdefault(path, []).append(content if self.command == "PUT" else json.loads(content or b"{}"))
            answer = made.answer(path)
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(body))} | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        made.port = int(listening.server_address[1])
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        listening.shutdown()


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def row_of(tracked: TrackedJobs, job_id: str) -> TrackedRun:
    found = tracked.run(job_id)
    assert found is not None
    return found


def test_two_servers_with_the_same_run_id_get_their_own_password_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-the-default")
    with serving() as default, serving() as other:
        settings = {
            "mlflow_tracking_uri": default.uri,
            "mlflow_tracking_uris": f"http://me:mine@127.0.0.1:{other.port}",
        }
        with tracked_jobs(bench, **settings) as tracked:
            claims = [tracked.claimed(), tracked.claimed(track={"mlflow": {"tracking_uri": other.uri}})]
            for claim in claims:
                tracked.succeed(claim, {"report.json": b"{}"})
            tracked.bring()
            rows = [row_of(tracked, claim.job_id) for claim in claims]
    assert [(row.stage, row.run_id) for row in rows] == [("complete", "r")] * 2
    assert {authorization for _, _, authorization in default.seen} == {"Bearer of-the-default"}
    assert {authorization for _, _, authorization in other.seen} == {"Basic bWU6bWluZQ=="}
    for server in (default, other):
        uploaded = server.sent["/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/report.json"]
        assert uploaded == [b"{}"]


@pytest.mark.parametrize(
    "artifacts",
    [
        "http://{other}/api/2.0/mlflow-artifacts/artifacts/1",
        "mlflow-artifacts://{other}/1",
        "s3://bucket/1",
        "file:///{folder}/1",
        "{folder}/1",
        "mlflow-artifacts:/../../1",
        "mlflow-artifacts:/%2e%2e/1",
        "mlflow-artifacts:/1?x=y",
        "mlflow-artifacts:",
        "http://[",
    ],
)
def test_files_go_to_the_tracking_server_alone(bench: Bench, artifacts: str) -> None:
    with serving() as other, serving() as server, tracked_jobs(bench, mlflow_tracking_uri=server.uri) as tracked:
        target = bench.folder / "target"
        uri = artifacts.format(other=f"127.0.0.1:{other.port}", folder=target)
        server.answers["runs/get"] = lambda: Answer({"run": {"info": {"artifact_uri": uri}}})
        claim = tracked.claimed()
        tracked.succeed(claim, {"report.json": b"{}"})
        tracked.bring()
        row = row_of(tracked, claim.job_id)
        assert (row.stage, row.failures) == ("ended", 1)
        assert "--artifacts-destination" in (row.error or "")
        assert other.seen == []
        assert not target.exists()
        assert "PUT" not in {method for method, _, _ in server.seen}


def test_the_address_that_is_used_is_the_one_that_was_checked(bench: Bench) -> None:
    with serving() as server, tracked_jobs(bench, mlflow_tracking_uri=server.uri) as tracked:
        target = bench.folder / "target"
        # The first answer of each upload is harmless; one that were asked for again would not be.
        uris = iter([OWN_ARTIFACTS, f"file://{target}"])
        server.answers["runs/get"] = lambda: Answer({"run": {"info": {"artifact_uri": next(uris)}}})
        claim = tracked.claimed()
        tracked.succeed(claim, {})
        tracked.bring()
        assert row_of(tracked, claim.job_id).stage == "complete"
        assert server.paths.count("runs/get") == 1
        assert not target.exists()


def test_redirects_are_not_followed_and_foreign_pages_are_not_shown(bench: Bench) -> None:
    with serving() as other, serving() as server, tracked_jobs(bench, mlflow_tracking_uri=server.uri) as tracked:
        claim = tracked.claimed()

        def error_of(answer: Answer) -> str:
            server.answers["experiments/get-by-name"] = lambda: answer
            tracked.bring()
            return row_of(tracked, claim.job_id).error or ""

        for status in (302, 307):
            redirected = error_of(Answer(b"SECRET", status, {"Location": f"{other.uri}/SECRET"}))
            assert f"{status}, a redirect" in redirected
            assert "SECRET" not in redirected
        assert other.seen == []
        for status, body in (
            (500, b"<h1>SECRET</h1>"),
            (404, b'{"message": "SECRET"}'),
            (403, b'{"error_code": "a b"}'),
        ):
            shown = error_of(Answer(body, status))
            assert shown == f"could not make the run: the server answered {status}"
        assert error_of(Answer(b"SECRET")) == "could not make the run: the answer is not JSON"
        # MLflow's own errors are, cut off and without what can't be stored or printed.
        own = {"error_code": "BAD_REQUEST", "message": "no\0 \x1b[31msuch\u202e thing " + "x" * 1000 + "\nSECRET"}
        shown = error_of(Answer(own, 400))
        assert shown.startswith("could not make the run: the server answered 400 BAD_REQUEST: no [31msuch thing xxx")
        assert len(shown) < 300
        assert shown.isprintable()
        strange = {"run": {"info": {"run_id": "../\0" * 5}}}
        del server.answers["experiments/get-by-name"]
        server.answers["runs/create"] = lambda: Answer(strange)
        tracked.bring()
        assert "no valid run_id" in (row_of(tracked, claim.job_id).error or "")
        assert row_of(tracked, claim.job_id).failures == 8


def test_a_server_that_dawdles_is_left_at_the_deadline_and_delays_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    asked, over = threading.Event(), threading.Event()

    class Drips(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(0.05):
                self.wfile.write(b"X-A: b\r\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Drips) as slow, serving() as other:
        slow.daemon_threads = True
        threading.Thread(target=slow.serve_forever, args=(0.02,), daemon=True).start()
        slow_uri = f"http://127.0.0.1:{slow.server_address[1]}"
        with tracked_jobs(bench, mlflow_tracking_uri=slow_uri, mlflow_tracking_uris=other.uri) as tracked:
            assert tracked.follower.threads == 2
            waiting = [tracked.claimed(), tracked.claimed()]
            reached = tracked.claimed(track={"mlflow": {"tracking_uri": other.uri}})
            thread = threading.Thread(target=tracked.follower.bring_one)
            thread.start()
            try:
                assert asked.wait(20)
                # Not the second run of the slow server, which has been due for longer.
                assert tracked.follower.bring_one()
                assert row_of(tracked, reached.job_id).stage == "live"
                thread.join(20)
                assert not thread.is_alive()
            finally:
                over.set()
                thread.join(20)
                slow.shutdown()
            errors = [row_of(tracked, claim.job_id).error for claim in waiting]
            assert errors == ["could not make the run: no complete answer within 1 s", None]


@pytest.mark.parametrize(
    ("before", "stage", "never"),
    [("runs/search", "new", "runs/create"), ("model-versions/search", "stored", "model-versions/create")],
)
def test_nothing_is_made_once_another_process_has_the_turn(bench: Bench, before: str, stage: str, never: str) -> None:
    with serving() as server, tracked_jobs(bench, mlflow_tracking_uri=server.uri) as tracked:
        claim = tracked.claimed(register="student")
        tracked.succeed(claim, {"model.onnx": b""})
        with bench.database.session() as session:
            row = session.get_one(TrackedRun, claim.job_id)
            row.stage, row.run_id = stage, None if stage == "new" else "r"

        def stolen() -> Answer:
            with bench.database.session() as session:
                session.get_one(TrackedRun, claim.job_id).turn += 1
            return Answer({})

        server.answers[before] = stolen
        assert tracked.follower.bring_one()
        assert server.paths[-1] == before
        assert never not in server.paths
        assert row_of(tracked, claim.job_id).error is None


@pytest.mark.parametrize(("owner", "registered"), [(OWNER, True), ("another", False), (None, True)])
def test_a_registered_model_of_another_owner_gets_no_version(bench: Bench, owner: str | None, registered: bool) -> None:
    with serving() as server, tracked_jobs(bench, mlflow_tracking_uri=server.uri) as tracked:
        exists = {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "it exists"}
        tags = [] if owner is None else [{"key": "lit.owner", "value": owner}]
        server.answers["registered-models/create"] = lambda: Answer(exists, 400)
        server.answers["registered-models/get"] = lambda: Answer({"registered_model": {"name": "s", "tags": tags}})
        claim = tracked.claimed(register="s")
        tracked.succeed(claim, {"model.onnx": b""})
        with bench.database.session() as session:
            row = session.get_one(TrackedRun, claim.job_id)
            row.stage, row.run_id = "stored", "r"
        tracked.bring()
        row = row_of(tracked, claim.job_id)
        assert row.stage == "complete"
        own = {"key": "lit.owner", "value": OWNER}
        assert server.sent["registered-models/create"] == [{"name": "s", "tags": [own]}]
        if registered:
            assert (row.registered, row.error) == ({"name": "s", "version": "1"}, None)
            [made] = server.sent["model-versions/create"]
            assert own in made["tags"]
            assert made["source"] == f"{OWN_ARTIFACTS}/model"
        else:
            assert row.registered is None
            assert "belongs to another owner" in (row.error or "")
            assert "model-versions/create" not in server.paths


def test_ways_to_log_in_that_are_not_supported_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unsupported_variable() is None
    monkeypatch.setenv("MLFLOW_TRACKING_AWS_SIGV4", "true")
    assert "MLFLOW_TRACKING_AWS_SIGV4" in (unsupported_variable() or "")
    assert one_line("a\n\0b" + "c" * 10, 5) == "a bc…"
