"""GET /metrics: who may read it, its formats, and its numbers against a real ledger with jobs that ran."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from api.app import create_app
from api.metrics import ledger
from jobs.database.connection import clock
from jobs.database.models import Webhook, WebhookDelivery
from jobs.ledger import keys, workers
from tests.worker.bench import OWNER, Bench, wait_for

TOKEN = "a-token-of-prometheus"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scrape looks into the ledger."""
    monkeypatch.setattr(ledger, "FRESH_SECONDS", -1)
    monkeypatch.setattr(ledger, "TOTALS_FRESH_SECONDS", -1)


def scrape(api: TestClient, **headers: str) -> Samples:
    answer = api.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    families = parse_text(answer.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, /, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def test_the_ledgers_numbers(api: TestClient, bench: Bench, no_cache: None) -> None:
    before = scrape(api)
    assert value(before, "lit_jobs", state="queued", device="cpu") == 0
    assert value(before, "lit_jobs_created_total", device="cpu") == 0
    assert value(before, "lit_workers_alive", device="cuda") == 0
    with bench.database.session() as session:
        workers.register(session, "both", "host", ["cpu", "cuda"], [1])
    bench.job()
    bench.job(device="cuda", nodes=3)
    waiting = scrape(api)
    assert value(waiting, "lit_jobs", state="queued", device="cuda") == 1
    assert value(waiting, "lit_job_nodes", state="queued", device="cuda") == 3
    assert value(waiting, "lit_job_nodes", state="queued", device="cpu") == 1
    assert value(waiting, "lit_job_nodes", state="running", device="cuda") == 0
    assert value(waiting, "lit_jobs_oldest_queued_seconds", device="cuda") > 0
    assert value(waiting, "lit_jobs_created_total", device="cuda") == 1
    assert value(waiting, "lit_workers_alive", device="cpu") == value(waiting, "lit_workers_alive", device="cuda") == 1
    bench.work("succeed")
    bench.job()
    bench.work("fail")
    bench.job(max_attempts=1)
    bench.work("crash")
    after = scrape(api)
    assert value(after, "lit_jobs", state="queued", device="cpu") == 0
    assert value(after, "lit_attempts_started_total", device="cpu") == 3
    assert value(after, "lit_jobs_finished_total", state="succeeded") == 1
    assert value(after, "lit_jobs_finished_total", state="failed") == 2
    assert value(after, "lit_jobs_failed_total", error="diverged") == 1
    assert value(after, "lit_attempts_lost_total", error="trainer-crashed") == 1
    assert value(after, "lit_job_wait_seconds_count", device="cpu") == 3
    assert value(after, "lit_job_run_seconds_count", device="cpu", state="failed") == 2
    assert value(after, "lit_uploads", kind="teacher", state="complete") == 4
    assert value(after, "lit_stored_bytes", content="teacher") == 4 * len(b"a teacher")
    outputs = sum(map(len, ("model.safetensors", "config.json", "report.json")))
    assert value(after, "lit_stored_bytes", content="output") == outputs
    # Counted once, however often they are read.
    assert {key: n for key, n in scrape(api).items() if "jobs_" in key[0] and "seconds" not in key[0]} == {
        key: n for key, n in after.items() if "jobs_" in key[0] and "seconds" not in key[0]
    }


def test_what_happens_before_the_first_scrape_counts_too(bench: Bench, no_cache: None) -> None:
    bench.job(name="from before this process")
    with TestClient(create_app(bench.settings, keyless=True), base_url="http://127.0.0.1:8000") as api:
        bench.job(device="cuda")
        first = scrape(api)
    assert value(first, "lit_jobs_created_total", device="cuda") == 1
    assert value(first, "lit_jobs_created_total", device="cpu") == 0


def test_expired_leases_and_events_that_commit_late(api: TestClient, bench: Bench, no_cache: None) -> None:
    scrape(api)
    job_id = bench.job()
    with bench.database.session() as session:
        # As if its transaction had taken half a minute.
        session.execute(text("UPDATE events SET created_at = clock_timestamp() - interval '30 s'"))
    assert value(scrape(api), "lit_jobs_created_total", device="cpu") == 1
    with bench.supervisor(["sleep", "60"]) as supervisor:
        assert supervisor._claim().job_id == job_id
    with bench.database.session() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
    expired = scrape(api)
    assert value(expired, "lit_jobs_lease_expired") == 1
    assert value(expired, "lit_jobs", state="running", device="cpu") == 1


def test_the_messages_for_webhooks(api: TestClient, bench: Bench, no_cache: None) -> None:
    with bench.database.session() as session:
        webhook = Webhook(
            id="webhook_a", owner=OWNER, url="https://hooks.example.com/", tags=[], enabled=False, secret="whsec_a"
        )
        session.add(webhook)
        session.flush()
        now = clock(session)
        for number, (state, minutes) in enumerate(
            [("pending", -20), ("pending", 20), ("pending", None), ("dead", None), ("delivered", None)]
        ):
            due_at = None if minutes is None else now + timedelta(minutes=minutes)
            kind = {"type": "ping", "data": {}, "webhook_id": webhook.id, "owner": OWNER}
            session.add(WebhookDelivery(id=f"msg_{number}", state=state, due_at=due_at, attempt=1, **kind))
    samples = scrape(api)
    assert value(samples, "lit_webhook_messages", state="pending") == 2
    assert value(samples, "lit_webhook_messages", state="dead") == 1
    assert value(samples, "lit_webhook_messages", state="delivered") == 1
    assert 1200 <= (value(samples, "lit_webhook_messages_overdue_seconds") or 0) < 1300


def test_many_scrapes_cost_as_much_as_one(api: TestClient, bench: Bench) -> None:
    scrape(api)
    bench.job()
    assert value(scrape(api), "lit_jobs", state="queued", device="cpu") == 0


def test_the_requests_of_this_process(api: TestClient, bench: Bench) -> None:
    job_id = bench.job()
    for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}?wait=1", "/v1/jobs/job_none", "/no/such/path", "/nor/this"):
        api.get(path)
    api.request("BREW", "/v1/jobs")
    samples = scrape(api)
    route = {"method": "GET", "route": "/v1/jobs/{job_id}"}
    assert value(samples, "lit_http_requests_total", **route, status="200") == 2
    assert value(samples, "lit_http_requests_total", **route, status="404") == 1
    assert value(samples, "lit_http_requests_total", method="GET", route="none", status="404") == 2
    assert value(samples, "lit_http_requests_total", method="other", route="/v1/jobs", status="405") == 1
    # Without the long poll.
    assert value(samples, "lit_http_request_duration_seconds_count", **route) == 2
    assert value(samples, "lit_http_requests_in_flight") == 1  # this scrape
    assert value(samples, "lit_http_long_polls_open") == 0
    assert value(samples, "lit_ready", part="database") == value(samples, "lit_ready", part="storage") == 1
    assert value(samples, "lit_disk_free_bytes", folder="storage") > 0
    assert value(samples, "lit_database_connections_limit") == 40
    assert value(samples, "lit_process_resident_memory_bytes") > 0
    # No label tells of a job.
    assert not any(job_id in str(key) for key in samples)


def test_text_or_openmetrics(api: TestClient) -> None:
    plain = api.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    answer = api.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(answer.text)}
    assert names == {family.name for family in parse_text(plain.text)}
    assert all(name.startswith("lit_") for name in names)


def test_while_the_database_is_away_the_process_still_tells_its_own(
    bench: Bench, no_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bench.settings.model_copy(update={"metrics_token": TOKEN})
    with TestClient(create_app(settings, keyless=True), base_url="http://127.0.0.1") as api:
        token = {"Authorization": f"Bearer {TOKEN}"}
        assert value(scrape(api, **token), "lit_ledger_up") == 1
        api.app.state.context.database.close()
        monkeypatch.setattr(ledger.overview, "overview", _fail)
        samples = scrape(api, **token)
    assert value(samples, "lit_ledger_up") == 0
    assert value(samples, "lit_jobs", state="queued", device="cpu") is None
    assert value(samples, "lit_http_requests_in_flight") == 1


def _fail(_: Any) -> None:
    raise OperationalError("SELECT", {}, Exception("away"))


# Who may read it.


def test_without_keys_only_this_machine_reads_it(api: TestClient) -> None:
    assert api.get("/metrics").status_code == 200
    assert api.get("/metrics", headers={"Host": "lit.example"}).status_code == 403
    assert api.get("/metrics", headers={"Origin": "https://evil.example"}).status_code == 403


def test_with_keys_or_on_an_open_address_nobody_reads_it_without_a_token(api: TestClient, bench: Bench) -> None:
    with TestClient(create_app(bench.settings, keyless=False), base_url="http://127.0.0.1") as opened:
        refused = opened.get("/metrics")
        assert (refused.status_code, refused.json()["type"]) == (401, "/problems/unauthorized")
        assert "LIT_METRICS_TOKEN" in refused.json()["detail"]
    with bench.database.session() as session:
        _, secret = keys.create(session, "ci")
    assert api.get("/metrics").status_code == 401
    # A key opens what belongs to its owner, and these numbers are everybody's.
    assert api.get("/metrics", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


@pytest.fixture
def with_token(bench: Bench) -> Iterator[TestClient]:
    settings = bench.settings.model_copy(update={"metrics_token": TOKEN})
    with TestClient(create_app(settings, keyless=True), base_url="http://lit.example") as made:
        yield made


def test_the_token_opens_it_from_anywhere_and_nothing_else_does(with_token: TestClient, bench: Bench) -> None:
    with bench.database.session() as session:
        keys.create(session, "ci")
    assert with_token.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    for wrong in ({}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer "}, {"Authorization": "Bearer é"}):
        refused = with_token.get("/metrics", headers={k: v.encode() for k, v in wrong.items()})
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert with_token.get("/v1/jobs", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 401


def test_long_polls_are_counted_while_they_wait(address: tuple[str, int], bench: Bench) -> None:
    job_id = bench.job()
    with httpx.Client(base_url="http://{}:{}".format(*address)) as client:
        etag = client.get(f"/v1/jobs/{job_id}").headers["ETag"]
        poll = threading.Thread(
            target=lambda: httpx.get(
                "http://{}:{}/v1/jobs/{}?wait=20".format(*address, job_id), headers={"If-None-Match": etag}, timeout=30
            )
        )
        poll.start()
        wait_for(lambda: "lit_http_long_polls_open 1.0" in client.get("/metrics").text)
        bench.cancel(job_id)
        poll.join(20)
        wait_for(lambda: "lit_http_long_polls_open 0.0" in client.get("/metrics").text)
