"""What a kind of study is given and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, field_serializer

from lit_spec import Inspection, JobRequest, SpecError, SpecModel
from lit_spec.errors import StudyError
from lit_spec.requests.job import STUDENT_FORMS
from lit_spec.requests.study import AnyStudyRequest, StudyRequest
from lit_spec.states import JobState
from lit_spec.trainer.plan import MeasuredStudents


class Key(BaseModel):
    """What distinguishes a trial from the others of its study. No two trials of one study have the same key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int

    def stored(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        return self.model_dump(mode="json", exclude_none=True)


class TrialStopReason(StrEnum):
    """Why a study stops one of its own trials."""

    HOPELESS = "hopeless"
    """The trial can no longer reach the accuracy that the study needs."""
    UNNEEDED = "unneeded"
    """Other trials have answered the question."""


@dataclass(frozen=True)
class TrialResult:
    """What a succeeded trial reached. Accuracies and agreements in percent, PSNR in decibels."""

    validation_metric: str
    validation: float
    """The value of its best epoch, by which that epoch was selected."""
    teacher_validation: float | None
    test_metric: str
    test: float | None
    teacher_test: float | None
    parameters: int | None
    teacher_parameters: int | None
    latency_ms: float | None
    """Latency of one sample, p50."""
    teacher_latency_ms: float | None
    seconds: float | None
    """Training time."""


EpochKey = tuple[int, int]
"""The number of the phase, and the epoch within it."""


@dataclass(frozen=True)
class Trial:
    """A trial's job, as a kind of study sees it."""

    job_id: str
    state: JobState
    stopped: TrialStopReason | None = None
    """Set as soon as the study stops the trial. The trial may still succeed."""
    result: TrialResult | None = None
    plan: MeasuredStudents | None = None
    """Instead of a result, of a job that measured a range of students."""
    curve: Mapping[EpochKey, float] = field(default_factory=dict)
    """After each epoch: the metric that selects the best epoch. Only for studies that stop trials early."""

    @property
    def live(self) -> bool:
        return not self.state.finished


KeyT = TypeVar("KeyT", bound=Key)
Trials = Mapping[KeyT, Trial]


class Choice(SpecModel):
    """The result of a study."""

    values: dict[str, Any]
    """By name, as {"tau": 6.0, "alpha": 0.95, "beta": 0.75}; null if no value was good enough."""
    job_id: str | None
    """Of the chosen configuration, the trial that is best on the validation split."""


@dataclass(frozen=True)
class NextSteps(Generic[KeyT]):
    """What the study does next."""

    new: Sequence[KeyT] = ()
    """Trials to make, the most urgent first. Any number of them may be made."""
    stop: Mapping[KeyT, TrialStopReason] = field(default_factory=dict)
    """Live trials to stop."""
    choice: Choice | None = None
    """The answer is known: the study finishes once no trial is live."""
    failure: StudyError | None = None
    """The answer can't be found: the study fails once no trial is live."""

    @property
    def decided(self) -> bool:
        return self.choice is not None or self.failure is not None


class Row(SpecModel):
    """One line of a study's table."""

    chosen: bool
    job_id: str | None
    """Of a row with several trials the one that is best on the validation split."""


class TrialsRow(Row):
    """A line for trials that differ in their seeds. Means, deviations and intervals are over the succeeded ones."""

    trials: int
    succeeded: int
    failed: int
    """Trials that failed, or were cancelled by their owner."""
    stopped: int
    """Trials that the study itself stopped."""
    validation_mean: float | None
    validation_std: float | None
    test_mean: float | None
    test_std: float | None
    test_low: float | None
    """Ends of the 95 % interval of the mean (Student's t); null with fewer than two trials."""
    test_high: float | None
    parameters: int | None
    seconds: float | None
    """Mean training time."""


class StudySpec(SpecModel):
    """Everything that a kind of study needs, so that deleted uploads don't change its answer."""

    request: AnyStudyRequest
    inspection: Inspection
    discriminator: Inspection | None = None

    @cached_property
    def job(self) -> dict[str, Any]:
        """The base request as it was sent; trials are made by changing it. They have exports only if it asks for them,
        because trials are made to be compared."""
        return {"exports": [], **self.request.job.model_dump(mode="json", exclude_unset=True)}

    @field_serializer("request")
    def _with_grids_written_out(self, request: StudyRequest) -> dict[str, Any]:
        # Fields that the request leaves out must stay out: a preset or an arm sets them.
        return {**request.model_dump(mode="json", exclude={"job"}), "job": self.job}


def check_student_is_open(job: JobRequest) -> None:
    """Raises SpecError if the base request says which student it wants."""
    for name in STUDENT_FORMS:
        if getattr(job.student, name) is not None:
            raise SpecError(f"job.student.{name}", "is what the study varies: leave it out")


@dataclass(frozen=True)
class Template:
    """A trial's request without its seed, and which field of the study sets which field of the request."""

    request: dict[str, Any]
    base: dict[str, Any]
    """The request that it was made from."""
    origins: Mapping[str, str]
    """From the dotted path of each changed field in the job's request to that in the study's."""

    def blame(self, path: str) -> str:
        """The field of the study that sets a field of the job's request."""
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            changed = ".".join(parts[:length])
            if changed not in self.origins:
                continue
            inside = any(other.startswith(f"{changed}.") for other in self.origins)
            if length == len(parts) or not inside or not _has(self.base, parts):
                return ".".join([self.origins[changed], *parts[length:]])
        return f"job.{path}"


def _has(value: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def race_of_trials(whole: JobRequest) -> Literal["rates", False]:
    """The race of trials that stand for a method or a value, where a preset lets methods compete: that would train
    another method than the table says. `whole` has its preset's values."""
    return "rates" if whole.race else False


class Kind(Protocol[KeyT]):
    """One kind of study, made from its specification. All methods are pure."""

    @property
    def planned(self) -> int:
        """The largest possible number of trials."""

    @property
    def columns(self) -> type[Row]:
        """What a row of the table has."""

    @property
    def reads_curves(self) -> bool:
        """Whether `next_steps` reads the curves of running trials, so that any epoch may change it."""

    def key(self, stored: Mapping[str, Any]) -> KeyT: ...

    def request(self, key: KeyT) -> dict[str, Any]:
        """The job's request of a trial."""

    def templates(self) -> Iterator[Template]:
        """One for each different request. All are checked before the study is made."""

    def next_steps(self, trials: Trials[KeyT], width: int, /) -> NextSteps[KeyT]:
        """What to do next. `width`: how many trials can run at once, at least 1."""

    def table(self, trials: Trials[KeyT]) -> Sequence[Row]: ...
