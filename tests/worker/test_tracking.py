"""Runs at a real tracking server: live while a job runs, complete after it, and whatever happens to the server."""

from __future__ import annotations

import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.ledger import attempts, owned_jobs
from jobs.ledger.attempts import Event
from jobs.settings import Settings
from lit_client.checks import Status
from lit_spec import ErrorType, JobError
from service.integration_checks import integration_checks
from tests.ports import free_port
from tests.worker.bench import OWNER, Bench
from tests.worker.mlflow_services import (
    MlflowProcess,
    TrackedJobs,
    epoch,
    metric_points,
    onnx_file,
    tracked_jobs,
)

pytestmark = pytest.mark.timeout(400)
"""A server of MLflow takes seconds to start, on a busy machine many."""
WEIGHTS = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tracked(bench: Bench, mlflow_server: MlflowProcess) -> Iterator[TrackedJobs]:
    with tracked_jobs(bench, mlflow_tracking_uri=mlflow_server.uri, public_url="https://lit.example.org/") as made:
        yield made


@pytest.fixture
def mlflow_client(mlflow_server: MlflowProcess) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=mlflow_server.uri, registry_uri=mlflow_server.uri)


def files() -> dict[str, bytes]:
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("huggingface/README.md", "# A card")
        archive.writestr("huggingface/training.png", b"a plot")
        archive.writestr("huggingface/model.safetensors", b"weights")
    return {
        "model.onnx": onnx_file(WEIGHTS),
        "report.json": b"{}",
        "model.safetensors": b"weights",
        "bundle.zip": bundle.getvalue(),
    }


def test_a_run_follows_its_job_and_its_student_is_registered(
    tracked: TrackedJobs,
    mlflow_client: Any,
    mlflow_server: MlflowProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow
    import onnxruntime

    own = {"experiment": "digits", "run_name": "first", "tags": {"team": "vision"}}
    claim = tracked.claimed(name="a job", tags=["x"], track={"mlflow": own}, register="student")
    tracked.record(claim, Event("teacher_measured", {"accuracy": 97.5}), epoch("lit", 1, ir_loss_1=2.0, seconds=1.0))
    tracked.bring()
    row = tracked.run(claim.job_id)
    assert row is not None
    assert (row.stage, row.error, row.tracking_uri) == ("live", None, mlflow_server.uri)
    run = mlflow_client.get_run(row.run_id)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "first")
    assert mlflow_client.get_experiment(row.experiment_id).name == "digits"
    assert run.data.params["schedule.lit.epochs"] == "2"
    assert run.data.params["student.blocks"] == "[2, 2, 2]"
    assert run.data.metrics == {"teacher_before.accuracy": 97.5, "ir_loss_1": 2.0, "seconds": 1.0}
    expected = {"team": "vision", "lit.job_id": claim.job_id, "lit.owner": OWNER, "lit.attempt": "1", "lit.tags": "x"}
    assert expected.items() <= run.data.tags.items()
    link = f"https://lit.example.org/v1/jobs/{claim.job_id}"
    assert link in run.data.tags["mlflow.note.content"]

    # Another attempt resumes: the run goes on, and the epoch that it repeats doesn't appear twice.
    with tracked.bench.database.session() as session:
        attempts.release(session, claim)
    tracked.bring()
    assert mlflow_client.get_run(row.run_id).info.status == "SCHEDULED"
    claim = tracked.claim()
    tracked.record(claim, epoch("lit", 1, ir_loss_1=2.5), epoch("lit", 2, ir_loss_1=1.0))
    tracked.record(claim, epoch("fine_tune", 1, ir_loss_1=0.5))
    tracked.succeed(claim, files())
    tracked.bring()
    row = tracked.run(claim.job_id)
    assert row is not None
    assert (row.stage, row.error) == ("complete", None)
    assert row.registered == {"name": "student", "version": "1"}
    run = mlflow_client.get_run(row.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["lit.attempt"] == "2"
    assert metric_points(mlflow_client, row.run_id, "ir_loss_1") == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert run.data.metrics["student.accuracy.test"] == 97.0
    assert run.data.metrics["ratios.parameters"] == 3.0
    assert "| accuracy (test), % | 97.5 | 97 |" in run.data.tags["mlflow.note.content"]
    top = {file.path for file in mlflow_client.list_artifacts(row.run_id)}
    assert top == {"card", "model", "model.safetensors", "report.json", "spec.json"}
    assert {file.path for file in mlflow_client.list_artifacts(row.run_id, "card")} == {
        "card/README.md",
        "card/training.png",
    }

    # Nothing is made twice when the last steps are repeated, as after a crash before they were recorded.
    with tracked.bench.database.session() as session:
        session.get_one(type(row), claim.job_id).stage = "new"
    tracked.bring()
    again = tracked.run(claim.job_id)
    assert again is not None
    assert (again.run_id, again.registered) == (row.run_id, row.registered)
    assert metric_points(mlflow_client, row.run_id, "student.accuracy.test") == [(0, 97.0)]

    # The real package loads the version, and it predicts as the job's own file.
    # Not set_tracking_uri, which sets the variable for good.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    runtime = onnxruntime.InferenceSession(onnx_file(WEIGHTS), providers=["CPUExecutionProvider"])
    wanted = runtime.run(["logits"], {"input": x})[0]
    model = mlflow.pyfunc.load_model("models:/student/1", dst_path=str(tmp_path))
    assert np.array_equal(model.predict(x)["logits"], wanted)
    assert model.metadata.metadata["classes"] == ["a", "b"]
    loaded = mlflow.onnx.load_model("models:/student/1")
    assert [value.name for value in loaded.graph.output] == ["logits"]


def test_failed_cancelled_deleted_and_unaccepted_jobs(tracked: TrackedJobs, mlflow_client: Any) -> None:
    failed, cancelled, deleted, poor = (tracked.claimed(register="poor") for _ in range(4))
    left_out = tracked.claimed(track={"mlflow": False})
    tracked.bring()
    ids = {}
    for claim in (failed, cancelled, deleted, poor):
        row = tracked.run(claim.job_id)
        assert row is not None
        ids[claim.job_id] = row.run_id
    assert tracked.run(left_out.job_id) is None
    with tracked.bench.database.session() as session:
        attempts.fail(session, failed, JobError(type=ErrorType.DIVERGED, detail="the loss is not finite"))
        attempts.cancelled(session, cancelled)
        attempts.cancelled(session, deleted)
    with tracked.bench.database.session() as session:
        owned_jobs.delete(session, OWNER, deleted.job_id)
    tracked.succeed(poor, files(), accepted=False)
    tracked.bring()
    found = {job_id: mlflow_client.get_run(run_id) for job_id, run_id in ids.items()}
    assert found[failed.job_id].info.status == "FAILED"
    assert found[failed.job_id].data.tags["lit.error"] == "the loss is not finite"
    assert found[cancelled.job_id].info.status == "KILLED"
    assert found[deleted.job_id].info.status == "KILLED"
    assert tracked.run(deleted.job_id) is None
    row = tracked.run(poor.job_id)
    assert row is not None
    assert (row.stage, row.registered) == ("complete", None)
    assert "accept" in (row.error or "")


def test_a_server_that_is_down_delays_the_run_alone(bench: Bench, tmp_path: Path, mlflow_server: MlflowProcess) -> None:
    from mlflow.tracking import MlflowClient

    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with tracked_jobs(bench, mlflow_tracking_uri=uri, mlflow_tracking_uris=mlflow_server.uri) as tracked:
        down = tracked.claimed()
        tracked.bring()
        row = tracked.run(down.job_id)
        assert row is not None
        assert (row.stage, row.run_id, row.failures) == ("new", None, 1)
        assert "make the run" in (row.error or "")
        # Meanwhile the runs of other servers go on.
        other = tracked.claimed(track={"mlflow": {"tracking_uri": mlflow_server.uri}})
        assert tracked.follower.bring_one()
        reached = tracked.run(other.job_id)
        assert reached is not None
        assert reached.stage == "live"
        tracked.record(down, epoch("lit", 1, ir_loss_1=2.0))
        tracked.succeed(down, {"report.json": b"{}"})
        assert tracked.job(down.job_id).state == "succeeded"
        forwarding = Forwarder(port, mlflow_server)
        try:
            tracked.bring()
            row = tracked.run(down.job_id)
            assert row is not None
            assert (row.stage, row.error, row.failures) == ("complete", None, 0)
            client = MlflowClient(tracking_uri=mlflow_server.uri)
            assert metric_points(client, str(row.run_id), "ir_loss_1") == [(1, 2.0)]

            # It dies in mid-job: what it had not got arrives later, once.
            dying = tracked.claimed()
            tracked.record(dying, epoch("lit", 1, ir_loss_1=2.0))
            tracked.bring()
            forwarding.close()
            tracked.record(dying, epoch("lit", 2, ir_loss_1=1.0))
            tracked.bring()
            row = tracked.run(dying.job_id)
            assert row is not None
            assert row.error
            forwarding = Forwarder(port, mlflow_server)
            tracked.bring()
            row = tracked.run(dying.job_id)
            assert row is not None
            assert (row.stage, row.error) == ("live", None)
            assert metric_points(client, str(row.run_id), "ir_loss_1") == [(1, 2.0), (2, 1.0)]
        finally:
            forwarding.close()


def test_a_wrong_token_is_shown_and_given_up_some_time_after_the_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            body = json.dumps({"error_code": "UNAUTHENTICATED", "message": "the token is wrong"}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    with listening(Refusing) as port, listening(Refusing) as other:
        uris = {"mlflow_tracking_uri": f"http://127.0.0.1:{port}"}
        uris["mlflow_tracking_uris"] = f"http://me:mine@127.0.0.1:{other}"
        with tracked_jobs(bench, **uris, tracking_give_up_seconds=0.0) as tracked:
            claim = tracked.claimed()
            tracked.bring()
            row = tracked.run(claim.job_id)
            assert row is not None
            assert row.stage == "new"
            assert "the token is wrong" in (row.error or "")
            assert set(seen) == {"Bearer secret"}
            tracked.succeed(claim, {})
            tracked.bring()
            row = tracked.run(claim.job_id)
            assert row is not None
            assert (row.stage, (row.error or "").startswith("given up: ")) == ("complete", True)
            # The token is of one server; another one gets what its own setting has.
            seen.clear()
            tracked.claimed(track={"mlflow": {"tracking_uri": f"http://127.0.0.1:{other}"}})
            tracked.bring()
            assert set(seen) == {"Basic bWU6bWluZQ=="}


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """A server of one handler; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield int(made.server_address[1])
        made.shutdown()


class Forwarder:
    """The tracking server at another port, until it is closed with all its connections: a restart takes seconds."""

    def __init__(self, port: int, mlflow_server: MlflowProcess) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._target = ("127.0.0.1", mlflow_server.port)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                incoming, _ = self._listener.accept()
            except OSError:
                return
            outgoing = socket.create_connection(self._target)
            self._open += [incoming, outgoing]
            for source, target in ((incoming, outgoing), (outgoing, incoming)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: Any, target: Any) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(1)
    except OSError:
        return


def test_doctor_reaches_the_tracking_server(mlflow_server: MlflowProcess) -> None:
    settings = Settings(MLFLOW_TRACKING_URI=mlflow_server.uri)
    [check] = integration_checks(settings)
    assert (check.name, check.status, check.detail) == ("MLflow", Status.OK, f"{mlflow_server.uri} answers")
