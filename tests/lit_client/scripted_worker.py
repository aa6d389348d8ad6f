"""Inspections and jobs that end at once, as a test says, without a network or a training."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from jobs.ledger import attempts, owned_jobs, uploads
from jobs.ledger.attempts import Artifact, Claim, Event
from lit_spec import SPEC_VERSION, DatasetInspection, ErrorType, Inspection, JobError
from lit_spec.states import JobState, UploadKind
from tests.jobs.study_bench import look, report
from tests.worker.bench import DATASET, INSPECTION, OWNER, Bench

RESULT: dict[str, Any] = {
    "teacher": {"accuracy": {"test": 97.5}, "parameters": 300_000, "latency": {"batch_1": {"p50_ms": 9.0}}},
    "student": {"accuracy": {"test": 96.25}, "parameters": 100_000, "latency": {"batch_1": {"p50_ms": 3.0}}},
    "ratios": {"parameters": 3.0, "latency_batch_1": 3.0},
}
DIVERGED = JobError(type=ErrorType.DIVERGED, detail="The loss is no number.")


class ScriptedWorker:
    """Looks for work in a thread until the test ends. Its attributes say what it finds and what jobs come to."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.inspection: Inspection | JobError = INSPECTION
        self.dataset_inspection: DatasetInspection | JobError = DATASET
        self.inspections: dict[str, Inspection] = {}
        """By the upload's file name, where they differ."""
        self.ends = JobState.SUCCEEDED
        """`running`: the job is claimed and stays."""
        self.result = RESULT
        self.events: Sequence[Event] = ()
        self.files = {"model.safetensors": b"student"}
        self.reached: Callable[[dict[str, Any]], float | None] = lambda trial: 97.0
        """The accuracy of a study's trial on the validation and test split; None: it fails."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="scripted worker")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        while not self._stopped.is_set():
            if not (self._inspect() or self._run()):
                self._stopped.wait(0.02)

    def _inspect(self) -> bool:
        with self.bench.database.session() as session:
            upload = uploads.claim_inspection(session, 60)
            if upload is None:
                return False
            found: Inspection | DatasetInspection | JobError = self.inspections.get(upload.filename, self.inspection)
            if upload.kind == UploadKind.DATASET:
                found = self.dataset_inspection
            self.bench.storage.put_bytes(f"uploads/{upload.id}/teacher.safetensors", b"a teacher")
            uploads.finish_inspection(
                session,
                upload.id,
                inspection=None if isinstance(found, JobError) else found,
                error=found if isinstance(found, JobError) else None,
                architecture=upload.architecture,
                teacher_weights=upload.teacher_weights,
            )
        return True

    def _run(self) -> bool:
        with self.bench.database.session() as session:
            claim = attempts.claim(session, "scripted", ["cpu"], [SPEC_VERSION], 60)
        if claim is None:
            return False
        with self.bench.database.session() as session:
            attempts.record(session, claim, self.events, [], None, None)
        if claim.study_id is not None:
            self._finish_trial(claim, claim.study_id)
        elif self.ends == JobState.SUCCEEDED:
            self._succeed(claim, self.result)
        elif self.ends == JobState.FAILED:
            self._fail(claim)
        elif self.ends == JobState.CANCELLED:
            with self.bench.database.session() as session:
                owned_jobs.request_cancel(session, OWNER, claim.job_id)
            with self.bench.database.session() as session:
                attempts.cancelled(session, claim)
        return True

    def _finish_trial(self, claim: Claim, study_id: str) -> None:
        reached = self.reached(self.bench.row(claim.job_id).trial or {})
        if reached is None:
            self._fail(claim)
        else:
            self._succeed(claim, report(reached))
        look(self.bench, study_id)

    def _succeed(self, claim: Claim, result: dict[str, Any]) -> None:
        artifacts = [store(self.bench, claim, name, content) for name, content in self.files.items()]
        with self.bench.database.session() as session:
            attempts.succeed(session, claim, result, artifacts)

    def _fail(self, claim: Claim) -> None:
        with self.bench.database.session() as session:
            attempts.fail(session, claim, DIVERGED)


def store(bench: Bench, claim: Claim, name: str, content: bytes, stored: bytes | None = None) -> Artifact:
    """A file of an attempt; `stored` is what lies in storage, where that is not what its manifest says."""
    key = f"jobs/{claim.job_id}/{claim.attempt}/output/{hashlib.sha256(name.encode()).hexdigest()}"
    bench.storage.put_bytes(key, content if stored is None else stored)
    return Artifact(name, key, len(content), hashlib.sha256(content).hexdigest())
