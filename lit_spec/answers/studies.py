"""What the API answers about studies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from lit_spec.answers.base import Answer
from lit_spec.errors import StudyError
from lit_spec.requests.study import StudyKind
from lit_spec.states import StudyState


class TeacherRow(Answer):
    """The teacher of a study, with which its students are compared."""

    validation: float | None
    """The metric on the validation split."""
    test: float | None
    """The metric on the test split."""
    parameters: int | None
    """Number of its parameters."""
    latency_ms: float | None
    """Median latency of one input in milliseconds."""


class StudyTable(Answer):
    """A study's table so far; docs/studies.md has the columns of each kind."""

    validation_metric: str | None
    """What trials are chosen by: `accuracy`, `agreement` (without labels) or `psnr`; null before one has succeeded."""
    test_metric: str | None
    """The metric that is reported for the test split."""
    teacher: TeacherRow | None
    """The teacher's own values; null before a trial has measured them."""
    columns: list[str]
    """Names of the columns, in order."""
    rows: list[dict[str, Any]]
    """A value for each column by its name."""


class StudyProgress(Answer):
    """How many trials there are, by state."""

    planned: int
    """The largest possible number of trials. There are fewer if the result is known before all have run."""
    queued: int
    """Trials that wait for a worker."""
    running: int
    """Trials that a worker runs."""
    succeeded: int
    """Trials with a result."""
    failed: int
    """Trials that failed."""
    cancelled: int
    """Trials that somebody cancelled."""
    stopped: int
    """Trials that the study itself stopped, because they were hopeless or no longer needed."""

    @property
    def finished(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.stopped


class StudyLinks(Answer):
    """Paths of a study and of what belongs to it."""

    self: str
    """The study itself."""
    table: str
    """Its table."""
    jobs: str
    """The list of its jobs."""


class Study(Answer):
    """A group of jobs from one request."""

    id: str
    """`study_…`."""
    name: str | None
    """As in the request."""
    tags: list[str]
    """As in the request. Its jobs have those of `job`."""
    kind: StudyKind
    """Which kind of study it is."""
    state: StudyState
    """Where it is between `running` and its end."""
    request: dict[str, Any]
    """The request as it was sent."""
    spec: dict[str, Any]
    """The request with all defaults and every grid written out."""
    cancel_requested: bool
    """Whether somebody asked to cancel it."""
    round: int
    """1, and one more with each time that the study was resumed."""
    progress: StudyProgress
    """How far it is."""
    choice: dict[str, Any] | None
    """The result, for example {"tau": 6.0, "alpha": 0.95, "beta": 0.75}; null before the study has finished."""
    best_job: str | None
    """The trial of the chosen configuration that is best on the validation split; while it runs, of the best so far."""
    next: list[dict[str, Any]]
    """The trials that will be created next, at most ten; empty in lists."""
    table: StudyTable | None
    """The table so far; null in lists."""
    error: StudyError | None
    """Why it failed; null unless it has."""
    created_at: datetime
    """When it was created."""
    finished_at: datetime | None
    """When it last finished."""
    links: StudyLinks
    """Where to read more of it."""
    etag: str | None = Field(None, exclude=True)
    """In the client: the answer's ETag, to ask later whether anything has changed."""

    @property
    def finished(self) -> bool:
        return self.state.finished
