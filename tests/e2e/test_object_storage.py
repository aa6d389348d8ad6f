"""An outage of the object store of `litc serve`. tests/e2e/test_integrations.py has a job without one."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from lit_client import Client
from service.running import RunningService, running_service
from tests.e2e.digits import QUICK, TEACHER
from tests.s3 import Relay, S3Server
from tests.worker.bench import wait_for


@pytest.fixture(scope="module")
def relay(s3_server: S3Server) -> Iterator[Relay]:
    made = Relay(s3_server)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket()


@pytest.fixture(scope="module")
def service(relay: Relay, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    environment = {
        **relay.environment,
        "LIT_STORAGE_URL": f"s3://{bucket}/lit",
        "LIT_STORAGE_RETRY_SECONDS": "0.5",
        "LIT_THREADS": "1",
    }
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, environment=environment) as running:
        yield running
        assert not (folder / "data/storage").exists()
        assert running.stop() == 0, running.end_of_log()


@pytest.mark.long
@pytest.mark.usefixtures("s3")
def test_an_outage_of_the_store_costs_an_attempt_and_no_job(service: RunningService, relay: Relay) -> None:
    """It begins while the trainer works and lasts until the worker can't store the result."""
    with Client(service.url) as client:
        teacher = client.wait_inspection(client.upload(TEACHER, "teacher").id)
        job = client.create_job(
            {
                "teacher": teacher.id,
                "student": QUICK,
                "schedule": {"lit": {"epochs": 2}, "fine_tune": {"epochs": 1}},
                "exports": [],
                "dataset": {"builtin": "digits"},
            }
        )
        wait_for(lambda: any(event.type == "epoch" for event in client.events(job.id).items), 60)
        relay.stop()
        try:
            wait_for(lambda: httpx.get(f"{service.url}/readyz").status_code == 503, 30)
            wait_for(lambda: any(event.type == "lost" for event in client.events(job.id).items), 90)
        finally:
            relay.start()
        job = client.wait_job(job.id, timeout=150)
        assert job.state == "succeeded", job.error
        wait_for(lambda: httpx.get(f"{service.url}/readyz").status_code == 200, 30)
