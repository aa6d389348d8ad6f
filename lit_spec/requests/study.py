"""The request for a study: a group of jobs made from one base request, and what varies between them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from lit_spec.base import NameText, OpenEnum, SpecModel
from lit_spec.requests.job import DATASET_EXAMPLE, JOB_EXAMPLES, STUDENT_FORMS, TEACHER_EXAMPLE, JobRequest, Tag
from lit_spec.requests.plan import PlanOptions
from lit_spec.requests.training import Init, Method

STUDY_VERSION = 10
"""Raise it with every change that makes a stored study create other trials than before."""
MOST_TRIALS = 10_000

DEFAULT_TAUS = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)
DEFAULT_ALPHAS = (0.0, 0.25, 0.5, 0.75, 0.95)
DEFAULT_BETAS = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)

T = TypeVar("T")


class StudyKind(OpenEnum):
    COMPARE = "compare"
    """Methods, initialisations and seeds side by side."""
    SEARCH = "search"
    """τ, then α, then β, each chosen on the validation split, in the paper's order."""
    DEPTH = "depth"
    """How shallow a student may be, and what each depth costs and saves."""
    PLAN = "plan"
    """What a range of students would cost and keep, measured without any training."""


# A born-again student has the teacher's depth, so the base request's depth must be removed.
_OWN_DEPTH = {"student": dict.fromkeys(STUDENT_FORMS)}
ARM_WORDS: dict[str, dict[str, Any]] = {
    **{method.value: {"method": method.value, **(_OWN_DEPTH if method.born_again else {})} for method in Method},
    "lit-teacher": {"method": "lit", "feed": "teacher"},
    "hint": {"method": "lit", "feed": "student"},
    "lit-scheduled": {"method": "lit", "feed": "scheduled"},
}
"""Names that an arm may be given by instead of an object."""


def _different(values: list[T]) -> list[T]:
    if len(set(values)) != len(values):
        raise ValueError("has a value twice: give each value once")
    return values


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=1000), AfterValidator(_different)]
Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0, le=1000)]
Grid = Annotated[list[T], Field(min_length=1, max_length=100), AfterValidator(_different)]


class Arm(SpecModel):
    """One arm of a comparison: a name, and fields of a job request that are merged into the base request (RFC 7396)."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+=,-]*$")
    """Its name in the table."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in ARM_WORDS:
            raise ValueError(f'is none of {", ".join(ARM_WORDS)}, nor an object as {{"name": "mine", "beta": 0.1}}')
        return {"name": value, **ARM_WORDS[value]}

    @property
    def patch(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class _OrItsName:
    """Annotation of an Arm: a word of ARM_WORDS may stand for it, which the JSON schema of the class can't say."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "enum": list(ARM_WORDS)}, handler(schema)]}


class StudyRequest(SpecModel):
    """What all kinds of studies have in common."""

    job: JobRequest
    """The request that every trial starts from."""
    seeds: Seeds | None = None
    """Every configuration of the study is run with each of these. None: with the job's own seed."""
    name: Annotated[NameText, Field(min_length=1, max_length=200)] | None = None
    """A name for people."""
    tags: list[Tag] = Field(default_factory=list, max_length=32)
    """Words by which lists are filtered. The study's jobs have those of `job`."""

    @field_validator("seeds")
    @classmethod
    def _one_place_for_seeds(cls, seeds: list[int] | None, info: ValidationInfo) -> list[int] | None:
        job = info.data.get("job")
        if seeds is not None and job is not None and "seed" in job.model_fields_set:
            raise ValueError('the job has a "seed" already: give one of the two')
        return seeds

    @property
    def explicit_seeds(self) -> list[int]:
        return [self.job.seed] if self.seeds is None else self.seeds


def _example(**fields: JsonValue) -> ConfigDict:
    example: JsonValue = {"job": JOB_EXAMPLES[0], **fields}
    return ConfigDict(json_schema_extra={"examples": [example]})


class CompareRequest(StudyRequest):
    """`methods` x `inits` x `seeds`."""

    model_config = _example(kind="compare", methods=["lit", "kd", "hint"], seeds=[0, 1, 2])

    kind: Literal[StudyKind.COMPARE]
    """Chooses this kind of study."""
    methods: list[Annotated[Arm, _OrItsName()]] = Field(min_length=1, max_length=100)
    """Names of methods, `hint`, `lit-scheduled`, or objects. All others are compared with the first."""
    inits: Annotated[list[Init], Field(min_length=1), AfterValidator(_different)] | None = None
    """None: what `job` and the arm say, else the method's default."""


class SearchRequest(StudyRequest):
    """First τ, then α, both by distillation only; then β with the whole loss."""

    model_config = _example(kind="search", taus=[1, 4, 8], alphas=[0, 0.5], betas=[0.25, 0.75])

    kind: Literal[StudyKind.SEARCH]
    """Chooses this kind of study."""
    taus: Grid[Temperature] = Field(list(DEFAULT_TAUS))
    """Values of τ to try."""
    alphas: Grid[Share] = Field(list(DEFAULT_ALPHAS))
    """Values of α to try."""
    betas: Grid[Share] = Field(list(DEFAULT_BETAS))
    """Values of β to try."""


class DepthRequest(StudyRequest):
    """Students of several depths."""

    model_config = _example(kind="depth", max_accuracy_drop=1)

    kind: Literal[StudyKind.DEPTH]
    """Chooses this kind of study."""
    max_accuracy_drop: float | None = Field(None, ge=0, le=100)
    """Points of validation accuracy that the student may lose. The study looks for the shallowest such student."""
    front: bool = Field(False, validate_default=True)
    """Try all depths, and list the students that no other student beats in both accuracy and latency."""
    depths: Grid[Annotated[int, Field(ge=1)]] | None = None
    """None: all depths below the teacher's."""
    stop_early: bool = True
    """Whether trials that can no longer reach the target are stopped."""

    @field_validator("front")
    @classmethod
    def _asks_for_something(cls, front: bool, info: ValidationInfo) -> bool:
        # It is missing from the data if it is invalid.
        if not front and info.data.get("max_accuracy_drop", 0) is None:
            raise ValueError('give "max_accuracy_drop" (points), or "front": true, or both')
        return front


class PlanRequest(StudyRequest, PlanOptions):
    """A range of students, measured by one job that trains nothing."""

    model_config = _example(
        kind="plan", job={"teacher": TEACHER_EXAMPLE, "dataset": {"upload": DATASET_EXAMPLE}}, students=6
    )

    kind: Literal[StudyKind.PLAN]
    """Chooses this kind of study."""

    @field_validator("seeds")
    @classmethod
    def _has_one_trial(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None:
            raise ValueError("repeat trainings, but a plan trains nothing: leave it out")
        return seeds


STUDY_REQUESTS: dict[StudyKind, type[CompareRequest | SearchRequest | DepthRequest | PlanRequest]] = {
    StudyKind.COMPARE: CompareRequest,
    StudyKind.SEARCH: SearchRequest,
    StudyKind.DEPTH: DepthRequest,
    StudyKind.PLAN: PlanRequest,
}
AnyStudyRequest = Annotated[CompareRequest | SearchRequest | DepthRequest | PlanRequest, Field(discriminator="kind")]
