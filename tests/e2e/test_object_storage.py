"""`litc serve` with all of its files in an object store: a job from upload to download, and an outage of the store."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from jobs.settings import Settings
from jobs.storage.opening import open_storage
from lit_client import Client
from service.running import RunningService, running_service
from tests.e2e.digits import QUICK, SHORT, TEACHER, images
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
        "LIT_DATASET_STORES": f"s3://{bucket}/data/",
        "LIT_THREADS": "1",
    }
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, environment=environment) as running:
        yield running
        assert not (folder / "data/storage").exists()
        assert running.stop() == 0, running.end_of_log()


def digits(count: int) -> bytes:
    file = io.BytesIO()
    x, y = images(count)
    np.savez_compressed(file, x=x, y=y)
    return file.getvalue()


@pytest.mark.usefixtures("s3")
def test_everything_lies_in_the_bucket(service: RunningService, bucket: str, tmp_path: Path) -> None:
    storage = open_storage(Settings(storage_url=f"s3://{bucket}/lit"))
    data = open_storage(Settings(storage_url=f"s3://{bucket}/data"))
    data.put_bytes("team/digits.npz", digits(300))
    (tmp_path / "own.npz").write_bytes(digits(300))
    with Client(service.url) as client:
        teacher = client.wait_inspection(client.upload(TEACHER, "teacher").id)
        own = client.wait_inspection(client.upload(tmp_path / "own.npz", "dataset").id)
        assert own.dataset_inspection is not None
        job = client.create_job(
            {
                "teacher": teacher.id,
                "student": QUICK,
                "schedule": SHORT,
                "exports": [],
                "dataset": {"url": f"s3://{bucket}/data/team/digits.npz"},
            }
        )
        job = client.wait_job(job.id, timeout=150)
        assert job.state == "succeeded", job.error

        client.download(job.id, tmp_path)
        report = json.loads((tmp_path / "report.json").read_text())
        etag = report["environment"]["dataset"]
        assert etag == hashlib.md5(digits(300)).hexdigest()  # noqa: S324 - S3's ETag
        (started,) = [event.data for event in client.events(job.id).items if event.type == "started"]
        assert started["environment"]["dataset"] == etag
        for artifact in client.artifacts(job.id):
            there = httpx.get(f"{service.url}{artifact.href}", params={"presigned": True})
            assert (there.status_code, there.content) == (307, b"")
            got = httpx.get(there.headers["Location"])
            assert (len(got.content), hashlib.sha256(got.content).hexdigest()) == (artifact.size, artifact.sha256)
            assert artifact.name in got.headers["Content-Disposition"]
        kept = {key.split("/")[-1] for key in storage.list(f"jobs/{job.id}/")}
        assert {"trainer.log", "model.safetensors", "report.json"} <= kept
        assert "checkpoint.pt" not in kept

        client.delete_job(job.id)
        for upload in (teacher, own):
            client.delete_upload(upload.id)
    assert [key.split("/")[0] for key in storage.list("")] == ["markers"]


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
