"""Takes runs that are due and brings each to where its job is: description, epochs, status, files, registered model."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.orm import Session

from jobs.database.connection import Database, clock
from jobs.database.models import Event, Job, Study, TrackedRun
from jobs.database.outages import is_outage
from jobs.errors import Stale
from jobs.ledger import owned_jobs
from jobs.settings import Settings
from jobs.storage import layout
from jobs.storage.storage import Storage, StorageKeyMissing
from jobs.tracking import runs
from jobs.tracking.runs import RunStage, Turn
from jobs.tracking.trackers import Trackers
from jobs.version import VERSION
from lit_spec import Schedule
from lit_spec.requests.tracking import MlflowTracking, Track
from lit_spec.states import JobState
from lit_spec.trainer.folder import BUNDLE_FILE, LOG_FILE, SPEC_FILE
from worker.host.work_folder import WorkFolder
from worker.tracking import contents
from worker.tracking.connection import LONGEST_ERROR, Connection, TrackingFailed, one_line
from worker.tracking.mlflow_server import MlflowServer, NotRegistered
from worker.tracking.model_folder import MODEL_FILE, write_model_files

LOOK_SECONDS = 1.0
"""Pause when no run is due."""
FOLLOW_SECONDS = 2.0
"""How often a run of an unfinished job is brought up to date."""
EVENTS_AT_ONCE = 500
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 300.0
"""Between two tries for one run; the pauses double from the first to the longest."""
MOST_THREADS = 8
DEFAULT_EXPERIMENT = "lit"
MODEL_FOLDER = "model"
CARD_FOLDER = "card"
CARD_MEMBERS = "huggingface/"
CARD_SUFFIXES = (".md", ".png", ".svg")

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True)
class Snapshot:
    """A job as the ledger has it, and what its run has not been told."""

    job: Job
    study: str | None
    """The name of its study."""
    events: list[Event]
    now: float
    """The database's clock, in seconds."""

    @property
    def asked(self) -> MlflowTracking:
        track = self.job.request.get("track")
        found = None if track is None else Track.model_validate(track).mlflow
        return found if isinstance(found, MlflowTracking) else MlflowTracking()

    @property
    def finished(self) -> bool:
        return JobState(self.job.state).finished

    @property
    def seconds_since_end(self) -> float:
        return 0.0 if self.job.finished_at is None else self.now - self.job.finished_at.timestamp()


class Follower:
    """Keeps runs up to date. Several threads may call it: each works for a server that no other works for."""

    def __init__(self, database: Database, storage: Storage, settings: Settings, work_folder: WorkFolder) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._work_folder = work_folder
        self._trackers = Trackers.of(settings)
        self._connections: dict[str, Connection] = {}
        self._choosing = threading.Lock()
        """Held while a run is chosen, and for changes of the next two."""
        self._busy: set[str] = set()
        """Servers for which a thread works."""
        self._resting: dict[str, float] = {}
        """Servers that can't be reached, and until when they are left alone, on the monotonic clock."""

    @property
    def threads(self) -> int:
        """How many threads are of use, so that a slow server delays no other."""
        return min(len(self._trackers), MOST_THREADS)

    def follow(self, stopped: threading.Event) -> None:
        """Keep runs up to date until `stopped`."""
        while not stopped.is_set():
            if not self.bring_one():
                stopped.wait(LOOK_SECONDS)

    def bring_one(self) -> bool:
        """Bring the run that has been due for longest to where its job is. False if none is due."""
        with self._choosing:
            now = time.monotonic()
            self._resting = {uri: until for uri, until in self._resting.items() if until > now}
            left_out = {*self._resting, *self._busy}
            taken = self._transact(lambda session: runs.take(session, left_out))
            if taken is None:
                return False
            turn, run = taken
            uri = run.tracking_uri
            self._busy.add(uri)
        try:
            self._bring(turn, run)
        except Stale:
            log.info("another process has the run", job=turn.job_id)
        finally:
            with self._choosing:
                self._busy.discard(uri)
        return True

    def _bring(self, turn: Turn, run: TrackedRun) -> None:
        snapshot = self._transact(lambda session: _read(session, run))
        try:
            server = self._server(turn, run.tracking_uri)
            if snapshot is None:
                self._end_orphan(turn, run, server)
                return
            if run.stage == RunStage.NEW:
                run = self._begin(turn, server, snapshot)
            if run.stage == RunStage.LIVE:
                run = self._tell(turn, run, server, snapshot)
            if run.stage == RunStage.ENDED:
                run = self._store(turn, run, server, snapshot)
            if run.stage == RunStage.STORED:
                self._register(turn, run, server, snapshot)
        except (TrackingFailed, StorageKeyMissing, OSError, ValueError) as failure:
            self._note(turn, run, snapshot, failure)
        except Exception as failure:
            if isinstance(failure, Stale) or is_outage(failure):
                raise
            log.exception("a run could not be brought up to date", job=turn.job_id)
            self._note(turn, run, snapshot, failure)

    # --- the stages of a run ---

    def _begin(self, turn: Turn, server: MlflowServer, snapshot: Snapshot) -> TrackedRun:
        job, asked = snapshot.job, snapshot.asked
        tags = contents.tags(job, snapshot.study, VERSION, asked.tags)
        tags |= {contents.DESCRIPTION_TAG: contents.description(job, self._settings.public_url)}
        experiment = asked.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        name = contents.run_name(job, snapshot.study, asked.run_name)
        run_id, experiment_id = server.find_or_create_run(
            job.id, experiment, name, tags, job.started_at or job.created_at
        )
        self._write(turn, run_id=run_id, experiment_id=experiment_id)
        server.log_parameters(run_id, contents.parameters(job.spec))
        return self._write(turn, stage=RunStage.LIVE, error=None, failures=0)

    def _tell(self, turn: Turn, run: TrackedRun, server: MlflowServer, snapshot: Snapshot) -> TrackedRun:
        """Send the new events and the job's state. Ends the run once the job is finished and all events are sent."""
        run_id = _id_of(run)
        schedule = Schedule.model_validate(snapshot.job.spec["schedule"])
        values: list[contents.Value] = []
        tags: dict[str, str] = {}
        epochs = run.epochs
        for event in snapshot.events:
            values += contents.values_of(event, schedule, epochs)
            tags |= contents.tags_of(event)
            if event.type == "epoch":
                epochs = max(epochs, contents.global_epoch(schedule, event.data["phase"], event.data["epoch"]))
        if values or tags:
            server.log_values(run_id, values, tags)
        sent = snapshot.events[-1].seq if snapshot.events else run.event_seq
        done: dict[str, Any] = {"event_seq": sent, "epochs": epochs, "error": None, "failures": 0}
        if sent < snapshot.job.event_seq:
            return self._write(turn, seconds=0, **done)
        status = contents.STATUSES[JobState(snapshot.job.state)]
        if snapshot.finished:
            description = {contents.DESCRIPTION_TAG: contents.description(snapshot.job, self._settings.public_url)}
            server.log_values(run_id, contents.summary_values(snapshot.job), description)
            server.set_status(run_id, status, snapshot.job.finished_at)
            return self._write(turn, stage=RunStage.ENDED, status=status, **done)
        if status != run.status:
            server.set_status(run_id, status, None)
        return self._write(turn, seconds=FOLLOW_SECONDS, status=status, **done)

    def _store(self, turn: Turn, run: TrackedRun, server: MlflowServer, snapshot: Snapshot) -> TrackedRun:
        """Upload the job's files. Those that are there already are written once more after a failure."""
        run_id, job = _id_of(run), snapshot.job
        with self._work_folder.temporary_folder(f"track-{job.id}") as folder:

            def send(path: Path, target: str | None) -> None:
                server.log_file(run_id, path, target)
                path.unlink()

            (folder / SPEC_FILE).write_text(json.dumps(job.spec, indent=2))
            send(folder / SPEC_FILE, None)
            trainer_log = layout.trainer_log(job.id, job.attempt)
            with self._copied(trainer_log, folder / LOG_FILE, may_be_missing=True) as is_there:
                if is_there:
                    send(folder / LOG_FILE, None)
            for artifact in job.manifest or []:
                path = folder / artifact["name"]
                with self._copied(artifact["key"], path):
                    if path.name == BUNDLE_FILE:
                        self._send_card(path, folder, send)
                    elif path.name == MODEL_FILE:
                        self._send_model(run_id, job, path, send)
                    else:
                        send(path, None)
        return self._write(turn, stage=RunStage.STORED, error=None, failures=0)

    def _send_model(self, run_id: str, job: Job, path: Path, send: Callable[[Path, str | None], None]) -> None:
        folder = path.parent / MODEL_FOLDER
        folder.mkdir(exist_ok=True)
        path.rename(folder / MODEL_FILE)
        result = job.result or {}
        metadata = {"job": job.id, "classes": result.get("classes"), "preprocessing": result.get("preprocessing")}
        write_model_files(folder, run_id, metadata)
        for file in sorted(folder.iterdir()):
            send(file, MODEL_FOLDER)

    def _send_card(self, bundle: Path, folder: Path, send: Callable[[Path, str | None], None]) -> None:
        """The card of the Hugging Face folder and its plots, which are in the bundle alone."""
        (folder / CARD_FOLDER).mkdir(exist_ok=True)
        with zipfile.ZipFile(bundle) as archive:
            for member in archive.namelist():
                if member.startswith(CARD_MEMBERS) and member.endswith(CARD_SUFFIXES):
                    path = folder / CARD_FOLDER / Path(member).name
                    path.write_bytes(archive.read(member))
                    send(path, CARD_FOLDER)

    def _register(self, turn: Turn, run: TrackedRun, server: MlflowServer, snapshot: Snapshot) -> None:
        job = snapshot.job
        name = job.request.get("register")
        registered, error = None, None
        if name is not None and job.state == JobState.SUCCEEDED:
            if job.result is not None and job.result.get("accepted") is False:
                error = "the student was not registered, because it does not meet the request's accept"
            elif MODEL_FILE not in {artifact["name"] for artifact in job.manifest or []}:
                error = "the student was not registered, because its export to ONNX failed: see the report"
            else:
                try:
                    made = server.register(_id_of(run), MODEL_FOLDER, name, job.owner, {contents.JOB_TAG: job.id})
                    registered = {"name": name, "version": made}
                except NotRegistered as refused:
                    error = one_line(str(refused), LONGEST_ERROR)
        self._write(turn, stage=RunStage.COMPLETE, registered=registered, error=error, failures=0)
        log.info("run complete", job=job.id, run=run.run_id)

    def _end_orphan(self, turn: Turn, run: TrackedRun, server: MlflowServer) -> None:
        """End the run of a job that was deleted before the run was complete."""
        if run.run_id is not None and run.stage == RunStage.LIVE:
            server.set_status(run.run_id, "KILLED", self._transact(clock))
        self._transact(lambda session: runs.remove(session, turn))

    # --- failures ---

    def _note(self, turn: Turn, run: TrackedRun, snapshot: Snapshot | None, failure: Exception) -> None:
        """Write what failed, and when to try again; or give up, if the job has been over for too long."""
        text = one_line(str(failure) or repr(failure), LONGEST_ERROR)
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(run.failures, 30), LONGEST_PAUSE_SECONDS)
        log.warning("a run could not be brought up to date", job=turn.job_id, error=text, again_in_seconds=pause)
        if isinstance(failure, TrackingFailed) and not failure.refused:
            with self._choosing:
                self._resting[run.tracking_uri] = time.monotonic() + min(pause, 60.0)
        give_up = self._settings.tracking_give_up_seconds
        values: dict[str, Any] = {"error": text, "failures": run.failures + 1}
        if snapshot is None and run.failures * LONGEST_PAUSE_SECONDS > give_up:
            self._transact(lambda session: runs.remove(session, turn))
        elif snapshot is not None and snapshot.finished and snapshot.seconds_since_end > give_up:
            values |= {"stage": RunStage.COMPLETE, "error": f"given up: {text}"}
            self._write(turn, **values)
        else:
            self._write(turn, seconds=pause, **values)

    # --- ledger and storage ---

    def _server(self, turn: Turn, uri: str) -> MlflowServer:
        """The server, which each call keeps the turn for: two processes can't make the same thing."""
        tracker = self._trackers.find(uri)
        if tracker is None:
            raise TrackingFailed(f"{uri} is none of the tracking servers that this worker may use", refused=True)
        if uri not in self._connections:
            self._connections[uri] = Connection(tracker, default=tracker == self._trackers.default)

        def renew(seconds: float) -> None:
            self._write(turn, seconds=runs.TURN_SECONDS + seconds)

        return MlflowServer(self._connections[uri], renew)

    @contextmanager
    def _copied(self, key: str, path: Path, *, may_be_missing: bool = False) -> Iterator[bool]:
        """A copy of a stored file while the block lasts; whether there is one."""
        try:
            with self._storage.open(key) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        except StorageKeyMissing:
            if not may_be_missing:
                raise
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)

    def _write(self, turn: Turn, *, seconds: float = runs.TURN_SECONDS, **values: Any) -> TrackedRun:
        return self._transact(lambda session: runs.write(session, turn, seconds=seconds, **values))

    def _transact(self, action: Callable[[Session], T]) -> T:
        with self._database.session() as session:
            return action(session)


def _read(session: Session, run: TrackedRun) -> Snapshot | None:
    """None: the job was deleted."""
    job = session.get(Job, run.job_id)
    if job is None:
        return None
    study = None if job.study_id is None else session.get(Study, job.study_id)
    events = owned_jobs.events_after(session, job.id, run.event_seq, EVENTS_AT_ONCE)
    return Snapshot(job, None if study is None else study.name, events, clock(session).timestamp())


def _id_of(run: TrackedRun) -> str:
    if run.run_id is None:
        raise ValueError(f"the run of {run.job_id} has no id yet")
    return run.run_id
