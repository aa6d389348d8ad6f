"""What the service answers, typed. Fields that a newer service adds are ignored, so that an older client goes on."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from lit_spec import Phase
from lit_spec.requests.then import prune_shares

ItemT = TypeVar("ItemT")


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True, protected_namespaces=())


class UploadKind(StrEnum):
    TEACHER = "teacher"
    DATASET = "dataset"


class Architecture(Answer):
    """A network as the service read it from its tensors."""

    family: str
    modality: str = "image"
    """`image` or `text`."""
    task: str = "classification"
    """`classification`, `translation` (a generator) or `discrimination` (its discriminator)."""
    depth: int
    blocks: list[int]
    """Blocks per section."""
    channels: int | None = None
    """Input channels of images."""
    classes: int
    """Outputs of a classifier, domains of a generator or discriminator."""
    options: dict[str, Any] = Field(default_factory=dict)
    network: dict[str, Any] | None = None
    """Of torchvision and timm: the network's `name` and `kwargs`, and the module paths of its `sections`."""
    choices: dict[str, list[Any]] = Field(default_factory=dict)
    """Options that the tensors can't tell, with their possible values; the first is assumed."""


class StudentOption(Answer):
    """What one student depth would save."""

    depth: int
    blocks: list[int]
    parameters: int
    parameters_ratio: float
    """Teacher / student."""


class ArchitectureItem(Answer):
    """A network of torchvision or timm."""

    library: str
    name: str
    parameters: int
    blocks: list[int]
    """Blocks of each section; none where it can't be made shallower."""
    refused: str | None = None
    """Why it can't be made shallower."""


class LibraryArchitecture(ArchitectureItem):
    sections: list[list[str]]
    """Module paths of each section's blocks."""
    students: list[StudentOption]
    """Every number of blocks, shallowest first, the network itself last."""


class Inspection(Answer):
    """What a teacher's upload turned out to be."""

    format: str
    architecture: Architecture
    parameters: int
    students: list[StudentOption]
    """Shallowest first, the teacher's own depth last; none of a discriminator."""


class Failure(Answer):
    """Why a job or an inspection failed, for people (`detail`) and programs (`type`)."""

    type: str
    detail: str
    field: str | None = None
    """The field of the request to change, if one is to blame."""
    member: str | None = None
    """The file or array inside the dataset, if one is to blame."""

    def __str__(self) -> str:
        places = [place for place in (self.field, self.member) if place]
        where = f" ({', '.join(places)})" if places else ""
        return f"{self.detail}{where} [{self.type}]"


class Upload(Answer):
    """A file that was sent, or is being sent, to the service."""

    id: str
    kind: str
    filename: str
    size: int
    received: int
    sha256: str | None = None
    state: str
    """`uploading` or `complete`."""
    architecture: dict[str, Any] | None = None
    """What a teacher is said to be, of torchvision or timm."""
    inspection_state: str | None = None
    """Of a teacher: `pending`, `running`, `done` or `failed`."""
    inspection: Inspection | None = None
    inspection_error: Failure | None = None
    created_at: datetime | None = None

    @property
    def complete(self) -> bool:
        return self.state == "complete"

    @property
    def inspecting(self) -> bool:
        """Whether an inspection is still to come or under way."""
        return self.inspection_state in {"pending", "running"}


class Progress(Answer):
    phase: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    fraction: float | None = None
    """Of the whole job, from 0 to 1."""


class Waiting(Answer):
    """Why a queued job does not run yet."""

    reason: str
    position: int | None = None
    detail: str | None = None


FINISHED_STATES = frozenset({"succeeded", "failed", "cancelled"})


class Job(Answer):
    """A compression job."""

    id: str
    name: str | None = None
    tags: list[str] = Field(default_factory=list)
    state: str
    """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
    device: str | None = None
    spec_version: int | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    """The request with every value made explicit."""
    request: dict[str, Any] = Field(default_factory=dict)
    study_id: str | None = None
    """The study that it is a trial of."""
    trial: dict[str, Any] | None = None
    """What tells it from the study's other trials."""
    attempt: int = 0
    failures: int = 0
    max_attempts: int | None = None
    worker: Any = None
    cancel_requested: bool = False
    progress: Progress | None = None
    waiting: Waiting | None = None
    accepted: bool | None = None
    """None where the request set no `accept`, or the job has not ended."""
    result: dict[str, Any] | None = None
    """The report without its longest parts: epochs, specification and accuracies per class."""
    error: Failure | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    links: dict[str, str] = Field(default_factory=dict)
    etag: str | None = Field(None, exclude=True)
    """The answer's ETag, to ask later whether anything changed."""

    @property
    def finished(self) -> bool:
        return self.state in FINISHED_STATES

    def epochs_of(self, phase: str) -> int:
        """How many epochs the job's specification gives a phase, `lit`, `fine_tune` or `prune`."""
        schedule = self.spec.get("schedule", {})
        if phase != Phase.PRUNE:
            return int(schedule.get(phase, {}).get("epochs", 0))
        return self.epochs_of(Phase.FINE_TUNE) * len(prune_shares(self.spec.get("then", [])))


class StudyProgress(Answer):
    """How many trials there are, by state."""

    planned: int = 0
    """At the most."""
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    stopped: int = 0
    """By the study itself."""

    @property
    def finished(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.stopped


class TeacherRow(Answer):
    """What the students of a study are measured against."""

    validation: float | None = None
    test: float | None = None
    parameters: int | None = None
    latency_ms: float | None = None


class StudyTable(Answer):
    """A study's table so far; the service's documentation tells the columns of each kind."""

    validation_metric: str | None = None
    test_metric: str | None = None
    teacher: TeacherRow | None = None
    columns: list[str] = Field(default_factory=list)
    rows: list[dict[str, Any]] = Field(default_factory=list)


class Study(Answer):
    """A group of jobs from one request."""

    id: str
    name: str | None = None
    tags: list[str] = Field(default_factory=list)
    kind: str
    """`compare`, `search` or `depth`."""
    state: str
    """`running`, `succeeded`, `failed` or `cancelled`."""
    request: dict[str, Any] = Field(default_factory=dict)
    spec: dict[str, Any] = Field(default_factory=dict)
    """The request with every grid written out."""
    cancel_requested: bool = False
    round: int = 1
    progress: StudyProgress = Field(default_factory=StudyProgress)
    choice: dict[str, Any] | None = None
    """What was found out; None before the end."""
    best_job: str | None = None
    next: list[dict[str, Any]] = Field(default_factory=list)
    """The trials that will be made next."""
    table: StudyTable | None = None
    """None in lists."""
    error: Failure | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None
    links: dict[str, str] = Field(default_factory=dict)
    etag: str | None = Field(None, exclude=True)
    """The answer's ETag, to ask later whether anything changed."""

    @property
    def finished(self) -> bool:
        return self.state in FINISHED_STATES


class Page(Answer, Generic[ItemT]):
    """Part of a list; `next_cursor` asks for the part after it, None ends the list."""

    items: list[ItemT]
    next_cursor: str | None = None


class Event(Answer):
    """One thing that happened to a job; `seq` counts from 1 without gaps within a job."""

    seq: int
    attempt: int
    type: str
    data: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime | None = None


class EventPage(Answer):
    items: list[Event]
    last: int | None = None


class Metric(Answer):
    phase: str
    epoch: int
    name: str
    value: float | None = None


class MetricPage(Answer):
    items: list[Metric]


class Artifact(Answer):
    """A file that a succeeded job left."""

    name: str
    size: int
    sha256: str
    media_type: str | None = None
    href: str | None = None


class ArtifactPage(Answer):
    items: list[Artifact]
