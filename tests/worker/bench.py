"""Ground for the worker's tests: a real ledger and storage, jobs in it, and supervisors of scripted trainers."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from benchmarks.inspected_teacher import INSPECTION
from jobs.broker.wakeups import SendWakeup
from jobs.database.connection import Database
from jobs.database.models import Job
from jobs.ledger import creation, metrics, owned_jobs, uploads
from jobs.ledger.creation import NewJob
from jobs.ledger.workers import NO_MORE_THAN_ONE
from jobs.settings import Settings
from jobs.storage import layout
from jobs.storage.marker import marker_key
from jobs.storage.opening import open_storage
from jobs.storage.storage import Storage
from jobs.tracing import OFF, Tracing
from lit_spec import Inspection, JobRequest, Modality, Split, resolve
from lit_spec.dataset_inspection import DatasetInspection, ImageContents, LabelKind, SplitContents
from worker.host.children import execute
from worker.host.trainer_template import TrainerTemplate
from worker.host.work_folder import WorkFolder
from worker.training.launching import TRAINER, trainer_environment
from worker.training.metrics import TrainingMetrics
from worker.training.supervisor import Supervisor

CHILD = Path(__file__).with_name("child.py")
OWNER = "local"


DATASET = DatasetInspection(
    format="npz",
    modalities=[Modality.IMAGE],
    label_kind=LabelKind.NUMBERS,
    classes=["0", "1", "2", "3", "4"],
    number_of_classes=5,
    splits={Split.TRAIN: SplitContents(samples=1000, labelled=1000, counts=[200] * 5)},
    images=ImageContents(channels=[1, 3], height=[8, 8], width=[8, 8], mean=[0.5], std=[0.25]),
    looked_at=1000,
)


def child(behaviour: str) -> list[str]:
    """The command of a scripted trainer."""
    return [sys.executable, str(CHILD), behaviour]


def wait_for(true: Callable[[], object], seconds: float = 10, what: str = "") -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what or true}"
        time.sleep(0.02)


TEMPLATE = TrainerTemplate(trainer_environment(Path(tempfile.gettempdir()), None, 1))
"""One for all tests of this process. It starts with the first job that is trained, and ends with this process."""


@dataclass
class Bench:
    """One ledger, one storage and one folder for work folders."""

    database: Database
    storage: Storage
    settings: Settings
    folder: Path

    def marker(self) -> str:
        with self.database.session() as session:
            return marker_key(session)

    def teacher(self, content: bytes = b"a teacher", inspection: Inspection = INSPECTION) -> str:
        with self.database.session() as session:
            upload = uploads.create(session, OWNER, "teacher", "teacher.safetensors", len(content), None)
            upload_id = upload.id
            uploads.complete(session, upload_id, upload.writer, upload_id)
        self.storage.put_bytes(f"uploads/{upload_id}/data", content)
        self.inspected(upload_id, inspection, content)
        return upload_id

    def inspected(
        self,
        upload_id: str,
        inspection: Inspection = INSPECTION,
        content: bytes = b"a teacher",
        architecture: dict[str, Any] | None = None,
        teacher_weights: str | None = None,
    ) -> None:
        """Finish the inspection of an upload, in which `content` was found."""
        self.storage.put_bytes(layout.inspected_teacher(upload_id, inspection.sha256), content)
        with self.database.session() as session:
            uploads.finish_inspection(
                session,
                upload_id,
                inspection=inspection,
                error=None,
                architecture=architecture,
                teacher_weights=teacher_weights,
            )

    def dataset(self, content: bytes = b"a data set", inspection: DatasetInspection = DATASET) -> str:
        with self.database.session() as session:
            upload = uploads.create(session, OWNER, "dataset", "data.npz", len(content), None)
            upload_id = upload.id
            uploads.complete(session, upload_id, upload.writer, upload_id)
        self.storage.put_bytes(f"uploads/{upload_id}/data", content)
        with self.database.session() as session:
            uploads.finish_inspection(session, upload_id, inspection=inspection, error=None)
        return upload_id

    def inspection(self, upload_id: str) -> Inspection:
        with self.database.session() as session:
            return Inspection.model_validate(uploads.get(session, OWNER, upload_id).inspection)

    def job(
        self,
        *,
        teacher: str | None = None,
        dataset: str | None = None,
        mounted: str | None = None,
        dataset_url: str | None = None,
        **request: Any,
    ) -> str:
        teacher = teacher or self.teacher()
        source = {"upload": dataset} if dataset else {"mounted": mounted} if mounted else {"builtin": "digits"}
        if dataset_url is not None:
            source = {"url": dataset_url}
        asked = JobRequest.model_validate(
            {
                "teacher": teacher,
                "dataset": source,
                "student": {"depth": 14, "select": "even"},
                "device": "cpu",
                **request,
            }
        )
        upload_ids = [teacher, *([dataset] if dataset else [])]
        with self.database.session() as session:
            spec = resolve(asked, self.inspection(teacher))
            return creation.create(session, NewJob(OWNER, asked, spec, dict.fromkeys(upload_ids))).id

    def row(self, job_id: str) -> Job:
        """The job as the ledger has it now, detached."""
        with self.database.session() as session:
            job = session.scalars(select(Job).where(Job.id == job_id)).one()
            session.refresh(job)
            session.expunge(job)
            return job

    def events(self, job_id: str, kind: str | None = None) -> list[dict[str, Any]]:
        with self.database.session() as session:
            found = owned_jobs.events_after(session, job_id, 0, 100_000)
            return [event.data for event in found if kind is None or event.type == kind]

    def metrics(self, job_id: str) -> dict[tuple[str, int, str], float]:
        with self.database.session() as session:
            return {(m.phase, m.epoch, m.name): m.value for m in metrics.read(session, job_id)}

    def cancel(self, job_id: str) -> None:
        with self.database.session() as session:
            owned_jobs.request_cancel(session, OWNER, job_id)

    def text(self, job_id: str, attempt: int, name: str) -> str:
        with self.storage.open(f"jobs/{job_id}/{attempt}/{name}") as file:
            return file.read().decode(errors="replace")

    @contextmanager
    def supervisor(
        self,
        command: Sequence[str],
        *,
        name: str = "worker-a",
        database: Database | None = None,
        device: str = "cpu",
        send_wakeup: SendWakeup | None = None,
        metrics: TrainingMetrics | None = None,
        tracing: Tracing = OFF,
        processes: Mapping[str, int] = NO_MORE_THAN_ONE,
    ) -> Iterator[Supervisor]:
        work_folder = WorkFolder(self.folder, name)
        try:
            yield Supervisor(
                database or self.database,
                self.storage,
                self.settings,
                work_folder,
                marker=self.marker(),
                worker_id=name,
                devices=[device],
                processes=processes,
                command=command,
                start=TEMPLATE.fork if tuple(command) == TRAINER else execute,
                send_wakeup=send_wakeup,
                metrics=metrics,
                tracing=tracing,
            )
        finally:
            work_folder.close()

    def work(self, behaviour: str) -> int:
        """Run everything that waits under a scripted trainer."""
        with self.supervisor(child(behaviour)) as supervisor:
            return supervisor.work()

    @contextmanager
    def working(
        self, command: Sequence[str], name: str = "worker-a", processes: Mapping[str, int] = NO_MORE_THAN_ONE
    ) -> Iterator[Supervisor]:
        """The same in a thread; drains at the end."""
        with self.supervisor(command, name=name, processes=processes) as supervisor:
            thread = threading.Thread(target=supervisor.work)
            thread.start()
            try:
                yield supervisor
            finally:
                supervisor.drain()
                thread.join(60)
                assert not thread.is_alive()

    @contextmanager
    def claiming(
        self,
        command: Sequence[str],
        name: str,
        processes: Mapping[str, int],
        metrics: TrainingMetrics | None = None,
    ) -> Iterator[Supervisor]:
        """A worker that looks for work again and again, in a thread; drains at the end."""
        stopped = threading.Event()

        def keep_working(supervisor: Supervisor) -> None:
            while not stopped.is_set():
                supervisor.work()
                stopped.wait(0.2)

        with self.supervisor(command, name=name, processes=processes, metrics=metrics) as supervisor:
            thread = threading.Thread(target=keep_working, args=[supervisor])
            thread.start()
            try:
                yield supervisor
            finally:
                stopped.set()
                supervisor.drain()
                thread.join(60)
                assert not thread.is_alive()


def make_bench(database: Database, database_url: str, redis_url: str, folder: Path, **settings: Any) -> Bench:
    values = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "data_dir": folder / "data",
        "storage_dir": folder / "storage",
        "threads": 1,
        **settings,
    }
    made = Settings(**values)
    bench = Bench(database, open_storage(made), made, folder / "work")
    bench.storage.put_bytes(bench.marker(), b"")
    return bench
