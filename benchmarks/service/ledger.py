"""LIT's ledger for the measurements: a key, a teacher, and jobs in each state, written as API and worker write them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from benchmarks.inspected_teacher import INSPECTION
from jobs.database.connection import Database
from jobs.ledger import attempts, creation, keys, uploads, workers
from jobs.ledger.attempts import Artifact, Claim, Event, Metric
from jobs.ledger.creation import NewJob
from jobs.ledger.requests import parse
from jobs.settings import Settings
from jobs.storage import layout
from jobs.storage.opening import open_storage
from jobs.storage.storage import Storage
from lit_spec import SPEC_VERSION, JobRequest, resolve

OWNER = "bench"
WORKER = "bench-worker"
LEASE_SECONDS = 3600.0
TEACHER = b"a teacher"
RESULT: dict[str, Any] = {
    "accepted": True,
    "teacher": {"accuracy": {"test": 97.5}, "parameters": 300_000},
    "student": {"accuracy": {"test": 96.25}, "parameters": 100_000},
    "ratios": {"parameters": 3.0, "latency_batch_1": 3.0},
}
PROGRESS: dict[str, Any] = {"phase": "lit", "epoch": 3, "epochs": 20, "step": 12, "steps": 40, "fraction": 0.2}


@dataclass(frozen=True)
class Ledger:
    database: Database
    storage: Storage
    key: str
    """The secret of an API key of OWNER."""
    teacher: str
    """Id of an inspected upload."""

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator[Self]:
        database, storage = Database(settings.database_url or ""), open_storage(settings)
        try:
            with database.session() as session:
                _, secret = keys.create(session, "bench", owner=OWNER)
            yield cls(database, storage, secret, _teacher(database, storage))
        finally:
            database.close()

    @property
    def job_request(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher,
            "dataset": {"builtin": "digits"},
            "student": {"depth": 14, "select": "even"},
            "device": "cpu",
        }

    def queued_job(self) -> str:
        request = parse(JobRequest, self.job_request)
        spec = resolve(request, INSPECTION)
        with self.database.session() as session:
            return creation.create(session, NewJob(OWNER, request, spec, {self.teacher: None})).id

    def running_job(self) -> Claim:
        """A worker has it, and reports nothing more. It is the oldest that was queued, if there was one."""
        self.queued_job()
        with self.database.session() as session:
            workers.register(session, WORKER, WORKER, ["cpu"], [SPEC_VERSION])
            claimed = attempts.claim(session, WORKER, ["cpu"], [SPEC_VERSION], LEASE_SECONDS)
        assert claimed is not None
        self.record(claimed, 1)
        return claimed

    def ended_job(self, file: bytes = b"a student") -> str:
        claimed = self.running_job()
        key = layout.output(claimed.job_id, claimed.attempt, "model.safetensors")
        self.storage.put_bytes(key, file)
        artifact = Artifact("model.safetensors", key, len(file), hashlib.sha256(file).hexdigest())
        with self.database.session() as session:
            attempts.succeed(session, claimed, RESULT, [artifact])
        return claimed.job_id

    def record(self, claimed: Claim, epoch: int, points: Sequence[Metric] = ()) -> None:
        """What a worker writes when its trainer has reported an epoch."""
        with self.database.session() as session:
            attempts.record(session, claimed, [Event("epoch", {"epoch": epoch})], points, PROGRESS, None)


def _teacher(database: Database, storage: Storage) -> str:
    with database.session() as session:
        upload = uploads.create(session, OWNER, "teacher", "teacher.safetensors", len(TEACHER), None)
        upload_id = upload.id
        uploads.complete(session, upload_id, upload.writer, hashlib.sha256(TEACHER).hexdigest())
    storage.put_bytes(layout.upload_data(upload_id), TEACHER)
    storage.put_bytes(layout.inspected_teacher(upload_id, INSPECTION.sha256), TEACHER)
    with database.session() as session:
        uploads.finish_inspection(session, upload_id, inspection=INSPECTION, error=None)
    return upload_id
