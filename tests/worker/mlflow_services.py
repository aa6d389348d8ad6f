"""A real tracking server of MLflow, and jobs whose runs go there without a training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.database.models import Job, TrackedRun
from jobs.ledger import attempts
from jobs.ledger.attempts import Artifact, Claim, Event
from jobs.settings import Settings
from jobs.storage import layout
from jobs.tracking import runs
from jobs.tracking.trackers import Trackers
from lit_spec import SPEC_VERSION
from tests.worker.bench import Bench
from worker.host.work_folder import WorkFolder
from worker.tracking.follower import Follower

SECONDS_TO_START = 90.0
WITHOUT_MORE = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""The server alone: the eight processes for its own jobs take 19 s of a core to start."""
SCHEDULE = {"lit": {"epochs": 2}, "fine_tune": {"epochs": 1}}
RESULT: dict[str, Any] = {
    "teacher": {"depth": 38, "parameters": 300_000, "accuracy": {"val": 98.5, "test": 97.5}, "blocks": [6, 6, 6]},
    "student": {"depth": 14, "parameters": 100_000, "accuracy": {"val": 98.0, "test": 97.0}, "blocks": [2, 2, 2]},
    "ratios": {"parameters": 3.0},
    "accuracy_drop": 0.5,
    "accepted": None,
    "notes": ["a note"],
    "classes": ["a", "b"],
    "preprocessing": {"kind": "image", "mean": [0.5]},
}


@dataclass
class MlflowProcess:
    """`mlflow server` with a database and a folder of its own. It can be stopped and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = {
            "host": "127.0.0.1",
            "port": self.port,
            "workers": 1,
            "backend-store-uri": f"sqlite:///{self.folder}/mlflow.db",
            "artifacts-destination": self.folder / "artifacts",
        }
        command = [sys.executable, "-m", "mlflow", "server", *(f"--{name}={value}" for name, value in options.items())]
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **WITHOUT_MORE, "PYTHONPATH": ""},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + SECONDS_TO_START
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            # The server's own children too.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@dataclass
class TrackedJobs:
    """Jobs of a ledger, made and finished by the ledger's own calls, and the follower that brings their runs on."""

    bench: Bench
    settings: Settings
    follower: Follower

    def claimed(self, **request: Any) -> Claim:
        """A job that a worker has just claimed."""
        self.bench.job(schedule=SCHEDULE, **request)
        return self.claim()

    def claim(self) -> Claim:
        with self.bench.database.session() as session:
            trackers = Trackers.of(self.settings)
            claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 600, trackers=trackers)
        assert claim is not None
        return claim

    def record(self, claim: Claim, *events: Event) -> None:
        with self.bench.database.session() as session:
            attempts.record(session, claim, events, [], None, None)

    def succeed(self, claim: Claim, files: dict[str, bytes], **result: Any) -> None:
        manifest = []
        for name, content in files.items():
            key = layout.output(claim.job_id, claim.attempt, name)
            self.bench.storage.put_bytes(key, content)
            manifest.append(Artifact(name, key, len(content), "0" * 64))
        with self.bench.database.session() as session:
            attempts.succeed(session, claim, RESULT | result, manifest)

    def run(self, job_id: str) -> TrackedRun | None:
        """The ledger's row."""
        with self.bench.database.session() as session:
            return runs.of_jobs(session, [job_id]).get(job_id)

    def job(self, job_id: str) -> Job:
        return self.bench.row(job_id)

    def bring(self) -> None:
        """Bring all runs to where their jobs are, those that rest as well."""
        with self.bench.database.session() as session:
            for run in session.query(TrackedRun).all():
                run.due_at = run.created_at
        self.follower._resting.clear()
        while self.follower.bring_one():
            pass


@contextmanager
def tracked_jobs(bench: Bench, **settings: Any) -> Iterator[TrackedJobs]:
    made = bench.settings.model_copy(update=settings)
    work_folder = WorkFolder(bench.folder, f"tracking-{time.monotonic_ns()}")
    try:
        yield TrackedJobs(bench, made, Follower(bench.database, bench.storage, made, work_folder))
    finally:
        work_folder.close()


def epoch(phase: str, number: int, **metrics: float) -> Event:
    data = {"phase": phase, "epoch": number, "epochs": 2, "fraction": 0.5, "metrics": metrics}
    return Event("epoch", data)


def onnx_file(weights: np.ndarray[Any, Any]) -> bytes:
    """A network of one matrix: `input` (B, D) to `logits` (B, classes)."""
    from onnx import TensorProto, helper, numpy_helper

    features, classes = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["logits"])],
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def metric_points(client: Any, run_id: str, name: str) -> Sequence[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
