"""One job through everything that LIT is connected with: events, a webhook, MLflow, metrics and an object store."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select, update

from jobs.database.models import WebhookDelivery
from jobs.database.notifications import notify
from jobs.settings import Settings
from jobs.storage.opening import open_storage
from jobs.webhooks.outbox import TOPIC
from lit_client import Client
from lit_client.models import Event, Job
from lit_spec.trainer.phases import JobPhase
from service.running import RunningService, running_service
from tests.e2e.digits import QUICK, SHORTEST, TEACHER, images
from tests.s3 import S3Server
from tests.webhooks.receiver import Receiver, receiving, status
from tests.worker.bench import Bench, wait_for
from tests.worker.mlflow_services import MlflowProcess

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """It fails twice, then takes everything."""
    with receiving(status(500), status(503)) as made:
        yield made


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.make_bucket()


@pytest.fixture
def service(
    bench: Bench, s3: S3Server, bucket: str, mlflow_server: MlflowProcess, tmp_path: Path
) -> Iterator[RunningService]:
    environment = {
        **s3.environment,
        "DATABASE_URL": bench.settings.database_url or "",
        "REDIS_URL": bench.settings.redis_url or "",
        "LIT_STORAGE_URL": f"s3://{bucket}/lit",
        "LIT_DATASET_STORES": f"s3://{bucket}/data/",
        "MLFLOW_TRACKING_URI": mlflow_server.uri,
        "LIT_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "LIT_THREADS": "1",
        # For a single job.
        "LIT_WARM_TRAINER": "false",
    }
    with running_service(tmp_path, environment=environment) as running:
        yield running
        assert not (tmp_path / "data/storage").exists()
        assert running.stop() == 0, running.end_of_log()


def test_one_job_through_all_of_it(
    service: RunningService,
    bench: Bench,
    receiver: Receiver,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = open_storage(Settings(storage_url=f"s3://{bucket}/data"))
    data.put_bytes("team/digits.npz", digits(300))
    with Client(service.url) as client:
        secret = client.create_webhook(receiver.url(), events=["job.succeeded"]).secret
        teacher = client.wait_inspection(client.upload(TEACHER, "teacher").id).id
        made = client.create_job(
            {
                "name": "digits through everything",
                "teacher": teacher,
                "dataset": {"url": f"s3://{bucket}/data/team/digits.npz"},
                "student": QUICK,
                "schedule": SHORTEST,
                "exports": ["onnx"],
                "tensorboard": True,
                "register": "digits",
            }
        )
        events = followed(client, made.id)
        job = client.job(made.id)
        assert job.state == "succeeded", job.error
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        (started,) = [event.data for event in events if event.type == "started"]
        assert started["environment"]["dataset"] == hashlib.md5(digits(300)).hexdigest()  # noqa: S324 - S3's ETag

        announced(bench, receiver, secret, job)
        files = tmp_path / "files"
        client.download(job.id, files)
        tracked(client, job, files, monkeypatch)
        counted(service)
        stored(service, client, job, bucket)

        client.delete_job(job.id)
        client.delete_upload(teacher)
    assert [key.split("/")[0] for key in open_storage(Settings(storage_url=f"s3://{bucket}/lit")).list("")] == [
        "markers"
    ]


def digits(count: int) -> bytes:
    file = io.BytesIO()
    x, y = images(count)
    np.savez_compressed(file, x=x, y=y)
    return file.getvalue()


def followed(client: Client, job_id: str) -> list[Event]:
    """The job's events as they were streamed, with its progress between them."""
    events: list[Event] = []
    phases: list[str] = []
    for told in client.stream_events(job_id):
        if isinstance(told, Event):
            events.append(told)
        elif told.progress is not None:
            phases.append(told.progress.phase)
    assert (events[0].type, events[-1].type) == ("queued", "succeeded")
    # Which phases are seen depends on the machine, since progress is told once a second.
    assert phases
    assert set(phases) <= {phase.value for phase in JobPhase}
    return events


def announced(bench: Bench, receiver: Receiver, secret: str, job: Job) -> None:
    """The webhook's message, after two attempts that failed. The pause of minutes between them is left out."""
    for attempts in (1, 2):
        wait_for(lambda attempts=attempts: attempts_of(bench) == attempts, 30)
        with bench.database.session() as session:
            session.execute(update(WebhookDelivery).values(due_at=func.clock_timestamp()))
            notify(session, TOPIC)
    wait_for(lambda: len(receiver.messages) == 3, 30)
    messages = [message.verified(secret) for message in receiver.messages]
    assert messages[0] == messages[1] == messages[2]
    assert len({message.id for message in receiver.messages}) == 1
    assert (messages[0]["type"], messages[0]["data"]["id"]) == ("job.succeeded", job.id)


def attempts_of(bench: Bench) -> int:
    with bench.database.session() as session:
        delivery = session.scalars(select(WebhookDelivery)).one()
        return len(delivery.attempts)


def tracked(client: Client, job: Job, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run, and the registered model, which predicts as the file of the job."""
    import mlflow
    import onnxruntime
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def complete() -> bool:
        tracking = client.job(job.id).tracking
        return tracking is not None and tracking.mlflow.complete

    wait_for(complete, 90)
    tracking = client.job(job.id).tracking
    assert tracking is not None
    run = tracking.mlflow
    assert (run.error, run.registered and run.registered.version) == (None, "1")
    # Not set_tracking_uri, which sets the variable for good.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", run.tracking_uri)
    found = mlflow.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert {"kd_loss", "ir_loss", "learning_rate", "student.accuracy.test", "teacher.latency.batch_1.p50_ms"} <= (
        found.data.metrics.keys()
    )
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(str(run.run_id), "card")}
    assert names <= {"card/README.md", "card/training.png"}
    x = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(files / "model.onnx"), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"input": x})[0]
    assert np.array_equal(mlflow.pyfunc.load_model("models:/digits/1").predict(x)["logits"], wanted)
    scalars = EventAccumulator(str(files)).Reload()
    assert {"lit/ir_loss_1", "lit/learning_rate", "fine_tune/kd_loss"} <= set(scalars.Tags()["scalars"])
    assert [point.step for point in scalars.Scalars("fine_tune/kd_loss")] == [2]


def counted(service: RunningService) -> None:
    def ended() -> float:
        text = httpx.get(f"{service.url}/metrics").raise_for_status().text
        families = text_string_to_metric_families(text)
        counters = [sample for family in families for sample in family.samples if family.name == "lit_jobs_finished"]
        return sum(sample.value for sample in counters if sample.labels == {"state": "succeeded"})

    wait_for(lambda: ended() == 1, 20)


def stored(service: RunningService, client: Client, job: Job, bucket: str) -> None:
    """Every file is in the bucket, and a signed URL gives it."""
    storage = open_storage(Settings(storage_url=f"s3://{bucket}/lit"))
    for artifact in client.artifacts(job.id):
        there = httpx.get(f"{service.url}{artifact.href}", params={"presigned": True})
        assert (there.status_code, there.content) == (307, b"")
        got = httpx.get(there.headers["Location"])
        assert (len(got.content), hashlib.sha256(got.content).hexdigest()) == (artifact.size, artifact.sha256)
        assert artifact.name in got.headers["Content-Disposition"]
    kept = {key.split("/")[-1] for key in storage.list(f"jobs/{job.id}/")}
    assert {"trainer.log", "model.safetensors", "report.json"} <= kept
    assert "checkpoint.pt" not in kept
