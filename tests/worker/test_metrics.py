"""A worker's metrics: what its attempts leave in them, and the port on which they are read."""

from __future__ import annotations

import socket
import threading
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from jobs.settings import Settings
from service import worker_children
from tests import ports
from tests.worker.bench import Bench, child, wait_for
from worker.host.metrics import serve_metrics
from worker.inspecting.metrics import InspectionMetrics
from worker.training import supervisor
from worker.training.metrics import TrainingMetrics

TOKEN = "a-token-of-prometheus"


@pytest.fixture
def free_port() -> int:
    return ports.free_port()


def value(registry: CollectorRegistry, name: str, /, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_what_attempts_leave(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0)
    metrics = TrainingMetrics()
    for behaviour, request in (("succeed_with_times", {}), ("fail", {}), ("kill_once", {"max_attempts": 2})):
        bench.job(**request)
        with bench.supervisor(child(behaviour), metrics=metrics) as worker:
            worker.work()
    registry = metrics.registry
    results = {r: value(registry, "lit_attempts_total", result=r) for r in ("succeeded", "failed", "lost")}
    assert results == {"succeeded": 2, "failed": 1, "lost": 1}
    assert value(registry, "lit_trainer_starts_total", device="cpu") == 4
    # Three epochs with their time, none before the failure, one before the kill and three after it.
    assert value(registry, "lit_trainer_epochs_total", phase="lit") == 7
    assert value(registry, "lit_trainer_steps_total", phase="lit") == 7 * 40
    assert value(registry, "lit_trainer_epoch_seconds_sum", phase="lit") == 3 * 2.0
    assert value(registry, "lit_trainer_step_seconds_sum", phase="lit") == pytest.approx(3 * 2.0 / 40)
    assert value(registry, "lit_trainer_device_info", name="cpu") == 1
    assert value(registry, "lit_trainer_memory_bytes") == 0
    assert value(registry, "lit_checkpoint_seconds_count") >= 3
    assert value(registry, "lit_checkpoint_bytes_total") >= 3 * len("epoch 1")
    assert value(registry, "lit_output_seconds_count") == 2
    assert value(registry, "lit_output_bytes_total") == 2 * sum(
        map(len, ("model.safetensors", "config.json", "report.json"))
    )
    assert value(registry, "lit_prepare_seconds_count") == 4
    # Each look for a job counts, those that find none too.
    assert value(registry, "lit_claim_seconds_count") == 7
    assert value(registry, "lit_worker_busy") == 0


def test_heartbeats_and_a_lost_lease(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"lease_seconds": 1.5})
    metrics = TrainingMetrics()
    job_id = bench.job()
    with bench.supervisor(child("run"), metrics=metrics) as worker:
        thread = threading.Thread(target=worker.work)
        thread.start()
        wait_for(lambda: value(metrics.registry, "lit_heartbeats_total", result="renewed"))
        assert value(metrics.registry, "lit_worker_busy") == 1
        wait_for(lambda: value(metrics.registry, "lit_trainer_memory_bytes") > 1 << 20)
        with bench.database.session() as session:
            # As when another worker has it.
            session.execute(text("UPDATE jobs SET attempt = attempt + 1 WHERE id = :id"), {"id": job_id})
        wait_for(lambda: value(metrics.registry, "lit_leases_lost_total", reason="stale"))
        worker.drain()
        thread.join(20)
        assert not thread.is_alive()
    assert value(metrics.registry, "lit_trainer_peak_memory_bytes") > 1 << 20
    assert value(metrics.registry, "lit_heartbeats_total", result="stale") == 1
    assert value(metrics.registry, "lit_attempts_total", result="stale") == 1


# The port.


def settings_for(port: int | None, **more: Any) -> Settings:
    return Settings(worker_metrics_port=port, **more)


def test_it_is_off_unless_its_port_is_set() -> None:
    with serve_metrics(settings_for(None), InspectionMetrics().registry) as address:
        assert address is None


def test_a_scrape(free_port: int) -> None:
    metrics = InspectionMetrics()
    with serve_metrics(settings_for(free_port), metrics.registry) as address:
        assert address == f"http://127.0.0.1:{free_port}/metrics"
        assert "lit_worker_ready 0.0" in httpx.get(address).text
        metrics.ready.set(1)
        answer = httpx.get(address, headers={"Accept": "application/openmetrics-text"})
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert "lit_worker_ready 1.0" in answer.text
        assert answer.text.endswith("# EOF\n")
        assert httpx.get(address.replace("/metrics", "/")).status_code == 404
        for host in ("evil.example", "127.0.0.1.evil.example:80", "localhost@evil.example", "[x", ""):
            assert httpx.get(address, headers={"Host": host}).status_code == 403, host
        for host in ("localhost:1", "[::1]:1", "127.0.0.1"):
            assert httpx.get(address, headers={"Host": host}).status_code == 200, host
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_with_a_token(free_port: int) -> None:
    settings = settings_for(free_port, metrics_token=TOKEN, worker_metrics_host="0.0.0.0")
    with serve_metrics(settings, InspectionMetrics().registry):
        address = f"http://127.0.0.1:{free_port}/metrics"
        assert httpx.get(address).status_code == 401
        assert httpx.get(address, headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
        assert httpx.get(address, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_it_is_never_open_to_others_by_accident(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    for settings, names in (
        (settings_for(free_port, worker_metrics_host="0.0.0.0"), "LIT_METRICS_TOKEN"),
        (settings_for(free_port, worker_metrics_host="worker-1.example"), "LIT_METRICS_TOKEN"),
    ):
        with pytest.raises(SystemExit) as ended, serve_metrics(settings, InspectionMetrics().registry):
            pass
        assert ended.value.code == 78
        assert names in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = settings_for(taken.getsockname()[1])
        with pytest.raises(SystemExit), serve_metrics(settings, InspectionMetrics().registry):
            pass
    assert "choose another LIT_WORKER_METRICS_PORT" in capsys.readouterr().err


def test_the_workers_of_one_command_take_one_port_after_the_other() -> None:
    settings = settings_for(9464)
    children = [worker_children.training_worker(settings, number=n) for n in (1, 2)]
    children.append(worker_children.inspecting_worker(settings, number=3))
    assert [made._environment["LIT_WORKER_METRICS_PORT"] for made in children] == ["9464", "9465", "9466"]
