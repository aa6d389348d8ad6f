"""What the API answers. The names are those of the ledger and of the job specification."""

from __future__ import annotations

import mimetypes
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs.database.models import Event, Job, Metric, Upload
from jobs.ledger.jobs import Waiting
from lit_spec import Inspection, JobError, JobSpec, LibraryRequest
from lit_spec.states import JobState, UploadKind

MEDIA_TYPES = {".safetensors": "application/vnd.safetensors", ".json": "application/json"}


class Out(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, from_attributes=True)


class UploadRequest(BaseModel):
    """The body of `POST /v1/uploads`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: UploadKind
    filename: str = Field(min_length=1, max_length=255)
    size: int = Field(ge=1)
    """In bytes."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Hexadecimal. With it a file that is already here isn't sent again, and one damaged on its way is refused."""
    architecture: LibraryRequest | None = None
    """Which network of torchvision or timm a teacher is."""

    @model_validator(mode="after")
    def _only_of_teachers(self) -> Self:
        if self.architecture is not None and self.kind != UploadKind.TEACHER:
            raise ValueError("architecture is for teachers: leave it out")
        return self


class UploadOut(Out):
    id: str
    kind: UploadKind
    filename: str
    size: int
    """In bytes."""
    received: int
    """How many bytes are safely here; `Upload-Offset` of the next PATCH."""
    sha256: str | None
    state: str
    """`uploading` or `complete`."""
    architecture: LibraryRequest | None
    """What a teacher is said to be, of torchvision or timm."""
    inspection_state: str | None
    """Of a complete teacher: `pending`, `running`, `done` or `failed`."""
    inspection: Inspection | None
    inspection_error: JobError | None
    created_at: datetime
    completed_at: datetime | None


class ProgressOut(Out):
    phase: str
    epoch: int
    epochs: int
    """Of this phase."""
    fraction: float
    """Of the whole job, from 0 to 1."""


class WaitingOut(Out):
    reason: str
    """`position`: others are before it; `no-worker`: no live worker has its device; `starting`: it is next."""
    position: int
    detail: str


class WorkerOut(Out):
    id: str
    device: str


class Links(Out):
    self: str
    events: str
    metrics: str
    log: str
    artifacts: str


class JobOut(Out):
    id: str
    name: str | None
    tags: list[str]
    state: JobState
    device: str
    """As asked for: `auto`, `cpu` or `cuda`; `worker.device` is what it became."""
    spec_version: int
    spec: JobSpec | dict[str, Any]
    """The request with every value made explicit, as the version of LIT that made the job understood it."""
    request: dict[str, Any]
    """As it came; the start of a run with changes."""
    study_id: str | None
    """The study that it is a trial of."""
    trial: dict[str, Any] | None
    """What tells it from the study's other trials, as {"arm": "lit", "seed": 3}."""
    attempt: int
    """How often a worker has taken the job."""
    failures: int
    """How many of these attempts were lost."""
    max_attempts: int
    worker: WorkerOut | None
    cancel_requested: bool
    progress: ProgressOut | None
    waiting: WaitingOut | None
    """Why a queued job waits; left out of lists."""
    accepted: bool | None
    """Whether the student keeps to `accept`; null without `accept`, or before the end."""
    result: dict[str, Any] | None
    """The report without its epochs, its specification and the accuracies per class."""
    error: JobError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: Links


class EventOut(Out):
    seq: int
    """From 1, without gaps within a job."""
    attempt: int
    type: str
    data: dict[str, Any]
    created_at: datetime


class EventsOut(Out):
    items: list[EventOut]
    last: int
    """Number of the job's newest event."""


class MetricOut(Out):
    phase: str
    epoch: int
    name: str
    value: float


class MetricsOut(Out):
    items: list[MetricOut]


class ArtifactOut(Out):
    name: str
    size: int
    """In bytes."""
    sha256: str
    """Hexadecimal."""
    media_type: str
    href: str


class ArtifactsOut(Out):
    items: list[ArtifactOut]


def show_upload(upload: Upload) -> UploadOut:
    return UploadOut.model_validate(upload)


def show_job(job: Job, waiting: Waiting | None = None) -> JobOut:
    path = f"/v1/jobs/{job.id}"
    running_on = WorkerOut(id=job.worker_id, device=job.worker_device) if job.worker_id and job.worker_device else None
    return JobOut(
        id=job.id,
        name=job.name,
        tags=job.tags,
        state=JobState(job.state),
        device=job.device,
        spec_version=job.spec_version,
        spec=job.spec,
        request=job.request,
        study_id=job.study_id,
        trial=job.trial,
        attempt=job.attempt,
        failures=job.failures,
        max_attempts=job.max_attempts,
        worker=running_on,
        cancel_requested=job.cancel_requested_at is not None,
        progress=job.progress and ProgressOut.model_validate(job.progress),
        waiting=waiting and WaitingOut.model_validate(waiting),
        accepted=(job.result or {}).get("accepted"),
        result=job.result,
        error=job.error and JobError.model_validate(job.error),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        links=Links(
            self=path,
            events=f"{path}/events",
            metrics=f"{path}/metrics",
            log=f"{path}/log",
            artifacts=f"{path}/artifacts",
        ),
    )


def show_event(event: Event) -> EventOut:
    return EventOut.model_validate(event)


def show_metric(metric: Metric) -> MetricOut:
    return MetricOut.model_validate(metric)


def show_artifact(job_id: str, artifact: dict[str, Any]) -> ArtifactOut:
    return ArtifactOut(
        name=artifact["name"],
        size=artifact["size"],
        sha256=artifact["sha256"],
        media_type=media_type(artifact["name"]),
        href=f"/v1/jobs/{job_id}/artifacts/{artifact['name']}",
    )


def media_type(name: str) -> str:
    for ending, found in MEDIA_TYPES.items():
        if name.endswith(ending):
            return found
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
