"""What the API answers about jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from lit_spec.answers.base import Answer, DocumentedAs
from lit_spec.errors import JobError
from lit_spec.requests.job import JobSpec
from lit_spec.requests.then import prune_shares
from lit_spec.requests.training import Phase
from lit_spec.states import JobState


class JobProgress(Answer):
    """How far a job is. While it is not running: how far its last attempt came."""

    phase: str
    """What the job does: a `lit_spec.trainer.phases.JobPhase`."""
    epoch: int
    """Finished epochs of this phase; 0 in a phase without epochs."""
    epochs: int
    """All epochs of this phase."""
    step: int | None = None
    """Finished steps of the epoch after these, or of a phase without epochs."""
    steps: int | None = None
    """All of these steps; null if their number is not known."""
    fraction: float
    """How much of the training is done, from 0 to 1. It falls only when an attempt begins at an earlier checkpoint, or
    an unstable training goes back."""


class Waiting(Answer):
    """Why a queued job does not run yet."""

    reason: str
    """`position`: others are before it; `no-worker`: no live worker can run it, as `detail` says; `quota`: as many jobs
    of its owner run as are allowed; `starting`: it is next."""
    position: int
    """Its place in the queue: 1 is the next job that a worker for its device takes."""
    at_least: bool = False
    """True: its place may be larger. Of the jobs before it, at most 1,000 for each device are counted."""
    detail: str
    """The reason in a sentence, for people."""


class JobWorker(Answer):
    """A worker that has taken a job."""

    id: str
    """The name under which the worker has registered."""
    device: str
    """The device that it trains on: `cpu` or `cuda`."""


class JobLinks(Answer):
    """Paths of a job and of what belongs to it."""

    self: str
    """The job itself."""
    events: str
    """What happened to it."""
    metrics: str
    """Its numbers by phase and epoch."""
    log: str
    """What its trainer wrote."""
    artifacts: str
    """Its files."""


class RegisteredVersion(Answer):
    """A version of a registered model."""

    name: str
    """Name of the registered model."""
    version: str
    """The version in the registry."""


class MlflowRun(Answer):
    """The run of MLflow that follows a job."""

    tracking_uri: str
    """The tracking server."""
    run_id: str | None
    """None: the tracking server has not been reached yet."""
    experiment_id: str | None
    """The run's experiment; null until the tracking server was reached."""
    url: str | None
    """The run's page."""
    complete: bool
    """Whether everything is there, or was given up; `error` tells which."""
    registered: RegisteredVersion | None
    """The version that the student became, if the request asked for it."""
    error: str | None
    """What failed last, until it succeeds."""


class JobTracking(Answer):
    """The runs of trackers that follow a job."""

    mlflow: MlflowRun
    """Its run of MLflow."""


class Job(Answer):
    """A compression job."""

    id: str
    """`job_…`."""
    name: str | None
    """As in the request."""
    tags: list[str]
    """As in the request."""
    state: JobState
    """Where it is between `queued` and its end."""
    device: str
    """As in the request: `auto`, `cpu` or `cuda`. `worker.device` is the device that was used."""
    spec_version: int
    """Version of the form of `spec`."""
    spec: Annotated[dict[str, Any], DocumentedAs(JobSpec)]
    """The request with every value explicit, as resolved by the version of LIT that created the job."""
    request: dict[str, Any]
    """The fields as they were sent. A rerun starts from them."""
    study_id: str | None
    """The study of which the job is a trial."""
    trial: dict[str, Any] | None
    """Which trial of the study it is, for example {"arm": "lit", "seed": 3}."""
    attempt: int
    """How often a worker has taken the job."""
    failures: int
    """How many of these attempts were lost."""
    max_attempts: int
    """How many attempts may be lost before the job fails."""
    worker: JobWorker | None
    """The worker that runs it, or ran it last."""
    cancel_requested: bool
    """Whether somebody asked to cancel it. A running job stops at its worker's next heartbeat."""
    progress: JobProgress | None
    """Null before a worker has claimed the job."""
    estimated_finish: datetime | None = None
    """When the training will have finished if it goes on as fast as in this attempt so far. Null while that is unknown,
    after the training, and while the job is not running."""
    waiting: Waiting | None
    """Why a queued job waits; left out of lists."""
    accepted: bool | None
    """Whether the student meets `accept`, and is neither at chance nor without a gain from its training; null without
    `accept`, and before the job has finished."""
    result: dict[str, Any] | None
    """The report without its epochs, its specification and the accuracies per class."""
    error: JobError | None
    """Why it failed; null unless it has."""
    tracking: JobTracking | None = None
    """The job's runs in experiment trackers; null before its first attempt, and without a tracker."""
    created_at: datetime
    """When it was created."""
    started_at: datetime | None
    """When a worker first took it."""
    finished_at: datetime | None
    """When it reached its last state."""
    kept: bool = False
    """Whether its files stay however old they are."""
    expires_at: datetime | None = None
    """When its files are removed; null: never, or not known before the job has finished."""
    artifacts_removed_at: datetime | None = None
    """When its files were removed, because the job had finished too long ago. Everything else stays."""
    links: JobLinks
    """Where to read more of it."""
    etag: str | None = Field(None, exclude=True)
    """In the client: the answer's ETag, to ask later whether anything has changed."""

    @property
    def finished(self) -> bool:
        return self.state.finished

    def epochs_of(self, phase: str) -> int:
        """How many epochs the job's specification gives a phase: `lit`, `fine_tune` or `prune`."""
        schedule = self.spec.get("schedule", {})
        if phase != Phase.PRUNE:
            return int(schedule.get(phase, {}).get("epochs", 0))
        return self.epochs_of(Phase.FINE_TUNE) * len(prune_shares(self.spec.get("then", [])))


class Event(Answer):
    """Something that happened to a job."""

    seq: int
    """The event's number: from 1, without gaps within a job."""
    attempt: int
    """The attempt in which it happened; 0 before the first one."""
    type: str
    """What happened, for example `running`, `epoch` or `succeeded`."""
    data: dict[str, Any]
    """What else there is to say; docs/api.md lists the fields of each type."""
    created_at: datetime
    """When it was written."""


class JobLive(Answer):
    """What a stream of events tells about the job itself, whenever it has changed."""

    state: JobState
    progress: JobProgress | None
    estimated_finish: datetime | None
    version: int
    """Grows with every change of the job."""


class EventPage(Answer):
    """Events after a number."""

    items: list[Event]
    """In the order in which they happened."""
    last: int
    """Number of the job's newest event."""


class Metric(Answer):
    """A number that a training reached in an epoch."""

    phase: str
    """The training's phase: `lit`, `fine_tune` or `prune`."""
    epoch: int
    """From 1 in each phase."""
    name: str
    """What was measured: docs/jobs.md lists the metrics."""
    value: float
    """In the metric's unit."""


class MetricPage(Answer):
    """The metrics of a job."""

    items: list[Metric]
    """By phase, epoch and name."""


class Artifact(Answer):
    """A file that a succeeded job left."""

    name: str
    """Its name among the job's files."""
    size: int
    """In bytes."""
    sha256: str
    """Hexadecimal."""
    media_type: str
    """Its content type."""
    href: str
    """Path from which the file is downloaded."""


class ArtifactPage(Answer):
    """The files of a job."""

    items: list[Artifact]
    """All files of the job."""
