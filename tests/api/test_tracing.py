"""One trace from the request to the trainer's phases, received by a real OTLP/HTTP server."""

from __future__ import annotations

import builtins
import itertools
import os
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from benchmarks.collector import collecting
from jobs.settings import Settings
from jobs.tracing import OFF, TracingNotConfigured, current_traceparent, open_tracing
from lit_spec import Phase
from lit_spec.trainer.messages import EpochDone, Progress, Started, StudentChosen, TrainerMessage
from lit_spec.trainer.phases import JobPhase
from service.commands.api import prepared_api
from service.errors import NotConfigured
from tests.worker.bench import Bench, child
from worker.training.spans import PhaseSpans

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def no_settings_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def post_job(api: TestClient, bench: Bench, **headers: str) -> str:
    body = {
        "teacher": bench.teacher(),
        "dataset": {"builtin": "digits"},
        "student": {"depth": 14, "select": "even"},
        "device": "cpu",
    }
    answer = api.post("/v1/jobs", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def test_one_trace_from_the_request_to_the_phases(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        app = create_app(bench.settings, keyless=True, tracing=open_tracing("lit-api"))
        with TestClient(app, base_url="http://127.0.0.1:8000") as api:
            assert api.get("/healthz").status_code == api.get("/metrics").status_code == 200
            job_id = post_job(api, bench, traceparent=CALLER)
        # Hours later, in another process.
        tracing = open_tracing("lit-worker")
        with bench.supervisor(child("succeed"), tracing=tracing) as supervisor:
            assert supervisor.work() == 1
        tracing.close()

    assert {span.trace for span in collector.spans} == {CALLER.split("-")[1]}
    request = collector.named("POST /v1/jobs")
    assert (request.service, request.parent) == ("lit-api", CALLER.split("-")[2])
    attempt, queued = collector.named("attempt"), collector.named("queued")
    assert attempt.service == "lit-worker"
    assert attempt.parent == queued.parent == request.id
    assert request.start < queued.end <= attempt.start < attempt.end
    assert attempt.attributes == {
        "lit.job": job_id,
        "lit.attempt": 1,
        "lit.device": "cpu",
        "lit.result": "succeeded",
    }
    children = {span.name: span for span in collector.spans if span.parent == attempt.id}
    assert sorted(children, key=lambda name: children[name].start) == ["claim", "prepare", "trainer", "store", "finish"]
    trainer = children["trainer"]
    assert trainer.attributes == {"lit.exit_code": 0}
    phases = sorted(
        (span for span in collector.spans if span.parent == trainer.id), key=lambda span: (span.start, -span.end)
    )
    assert [span.name for span in phases] == ["starting", "lit", "first_step"]
    starting, training, first_step = phases
    assert training.attributes == {"lit.epochs": 3}
    assert starting.end <= training.start <= first_step.start <= first_step.end <= training.end
    # Nothing else: neither health nor metrics nor pieces of bodies.
    assert len(collector.spans) == 3 + len(children) + len(phases)
    assert not any(span.failed for span in collector.spans)


def test_the_spans_of_a_trainer_are_the_phases_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[TrainerMessage] = [
        Started(),
        Progress(phase=JobPhase.LOADING),
        Progress(phase=JobPhase.CHOOSING_BLOCKS),
        StudentChosen(),
        Progress(phase=JobPhase.LIT, step=0, steps=2),
        Progress(phase=JobPhase.LIT, step=1, steps=2),
        EpochDone(phase=Phase.LIT, epoch=1, epochs=1, fraction=0.5, metrics={}),
        Progress(phase=JobPhase.FINE_TUNE, step=0, steps=2),
        EpochDone(phase=Phase.FINE_TUNE, epoch=1, epochs=1, fraction=1, metrics={}),
        Progress(phase=JobPhase.MEASURING_STUDENT),
    ]
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        tracing = open_tracing("lit-worker")
        phases = PhaseSpans(tracing)
        for message in said:
            phases.trainer_said(message)
        phases.end()
        tracing.close()
    first_step = collector.named("first_step")
    spans = [span for span in collector.spans if span is not first_step]
    names = ["starting", "loading", "choosing_blocks", "lit", "fine_tune", "measuring_student"]
    assert [span.name for span in spans] == names
    assert all(before.end <= after.start for before, after in itertools.pairwise(spans))
    training = collector.named("lit")
    assert training.start <= first_step.start <= first_step.end <= training.end


def test_the_first_step_of_a_resumed_training_is_one_that_it_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        tracing = open_tracing("lit-worker")
        phases = PhaseSpans(tracing)
        phases.trainer_said(Progress(phase=JobPhase.LIT, step=5, steps=9))
        before_step = time.time()
        phases.trainer_said(Progress(phase=JobPhase.LIT, step=6, steps=9))
        phases.end()
        tracing.close()
    assert collector.named("first_step").end >= before_step


def test_failures_and_jobs_without_a_trace(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        bench.job()
        tracing = open_tracing("lit-worker")
        with bench.supervisor(child("fail"), tracing=tracing) as supervisor:
            supervisor.work()
        tracing.close()
    attempt = collector.named("attempt")
    assert (attempt.parent, attempt.failed, attempt.attributes["lit.result"]) == ("", True, "failed")


def test_the_trainer_knows_its_trace_but_not_the_collector(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        job_id = bench.job()
        tracing = open_tracing("lit-worker")
        with bench.supervisor(child("succeed"), tracing=tracing) as supervisor:
            supervisor.work()
        tracing.close()
    said = bench.text(job_id, 1, "trainer.log")
    assert "'TRACEPARENT'" in said
    assert "OTEL" not in said


def test_an_unreachable_collector_slows_and_fails_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        # Connections are taken, and never answered.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("jobs.tracing.CLOSE_SECONDS", 0.1)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        app = create_app(bench.settings, keyless=True, tracing=open_tracing("lit-api"))
        with TestClient(app, base_url="http://127.0.0.1:8000") as api:
            job_id = post_job(api, bench)
        tracing = open_tracing("lit-worker")
        began = time.monotonic()
        with bench.supervisor(child("succeed"), tracing=tracing) as supervisor:
            supervisor.work()
        tracing.close()
        # The exporter alone would wait for ten seconds.
        assert time.monotonic() - began < 9
    assert bench.row(job_id).state == "succeeded"


def test_log_lines_name_the_trace(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        app = create_app(bench.settings, keyless=True, tracing=open_tracing("lit-api"))
        seen: list[str | None] = []

        @app.get("/v1/here")
        def here() -> None:
            seen.append(current_traceparent())

        with TestClient(app, base_url="http://127.0.0.1:8000") as api:
            api.get("/v1/here", headers={"traceparent": CALLER})
    [traceparent] = seen
    assert traceparent is not None
    assert traceparent.split("-")[1] == CALLER.split("-")[1]
    assert collector.named("GET /v1/here").id == traceparent.split("-")[2]


# Whether it is on.


def test_off_without_an_endpoint(bench: Bench) -> None:
    assert open_tracing("lit-api") is OFF
    with OFF.span("nothing") as span:
        span.set("a", 1)
        span.fail("nothing")
        assert current_traceparent() is None
    OFF.record("nothing", 0, 1)
    OFF.close()
    assert bench.row(bench.job()).traceparent is None


def test_off_costs_no_import() -> None:
    code = (
        "import sys, jobs.tracing; jobs.tracing.open_tracing('lit'); "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry.sdk')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_packages_are_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_otlp(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry.exporter"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setattr(builtins, "__import__", without_otlp)
    with pytest.raises(TracingNotConfigured, match=rf"^{ENDPOINT} is set, but .* install the extra `otel`"):
        open_tracing("lit-api")
    with pytest.raises(NotConfigured, match="install the extra `otel`"):
        prepared_api(bench.settings)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (ENDPOINT, "collector:4317", "is not an http:// or https:// URL"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://collector", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is grpc: only http/protobuf"),
    ],
)
def test_what_can_not_work_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setenv(name, value)
    with pytest.raises(TracingNotConfigured, match=says):
        open_tracing("lit-api")


def test_settings_need_nothing_of_it() -> None:
    assert not [name for name in Settings.model_fields if "otel" in name]
