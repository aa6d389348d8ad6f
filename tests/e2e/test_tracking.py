"""A whole service with a real tracking server: from the request to a registered model that predicts as the student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lit_client import Client
from service.running import running_service
from tests.e2e.digits import QUICK, SHORT, TEACHER
from tests.worker.bench import wait_for
from tests.worker.mlflow_services import MlflowProcess, free_port


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_job_of_a_whole_service_becomes_a_registered_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short form, with the ledger's own calls in the place of a training, is tests/worker/test_tracking.py."""
    import mlflow
    import onnxruntime
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "mlflow").mkdir()
    server = MlflowProcess(tmp_path / "mlflow", free_port())
    server.start()
    environment = {"LIT_THREADS": "1", "MLFLOW_TRACKING_URI": server.uri}
    try:
        with running_service(tmp_path, environment=environment) as service, Client(service.url) as client:
            teacher = client.wait_inspection(client.upload(TEACHER, "teacher").id).id
            job = client.create_job(
                {
                    "teacher": teacher,
                    "dataset": {"builtin": "digits"},
                    "student": QUICK,
                    "schedule": SHORT,
                    "exports": ["onnx", "hugging_face"],
                    "tensorboard": True,
                    "register": "digits",
                }
            )
            job = client.wait_job(job.id, timeout=150)
            assert job.state == "succeeded", job.error

            def complete() -> bool:
                tracking = client.job(job.id).tracking
                return tracking is not None and tracking.mlflow.complete

            wait_for(complete, 60)
            tracking = client.job(job.id).tracking
            assert tracking is not None
            run = tracking.mlflow
            assert (run.error, run.registered and run.registered.version) == (None, "1")
            client.download(job.id, tmp_path / "files")
            assert service.stop() == 0, service.end_of_log()
        # Not set_tracking_uri, which sets the variable for good.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        found = mlflow.get_run(run.run_id)
        assert found.info.status == "FINISHED"
        assert {"kd_loss", "ir_loss", "learning_rate", "student.accuracy.test", "teacher.latency.batch_1.p50_ms"} <= (
            found.data.metrics.keys()
        )
        names = {file.path for file in mlflow.MlflowClient().list_artifacts(str(run.run_id), "card")}
        assert names == {"card/README.md", "card/training.png"}
        x = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
        path = str(tmp_path / "files/model.onnx")
        wanted = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]
        assert np.array_equal(mlflow.pyfunc.load_model("models:/digits/1").predict(x)["logits"], wanted)
        events = EventAccumulator(str(tmp_path / "files")).Reload()
        assert {"lit/ir_loss_1", "lit/learning_rate", "fine_tune/kd_loss"} <= set(events.Tags()["scalars"])
        assert [point.step for point in events.Scalars("fine_tune/kd_loss")] == [2]
    finally:
        server.stop()
