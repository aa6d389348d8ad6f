"""From a request for a study to its row. Every trial of the study is checked first.

Every function raises RequestRefused, with the study's own fields, when the request can't be carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from jobs.database.models import Study
from jobs.errors import NotFound, RequestRefused
from jobs.ledger.idempotency import IdempotentRequest
from jobs.ledger.quotas import NO_QUOTAS
from jobs.ledger.requests import Inspections, parse, refuse_deleted_upload, specify
from jobs.studies import studies
from jobs.studies.kinds.kind_of import kind_of
from jobs.studies.kinds.trials import StudySpec
from jobs.tracking.trackers import Trackers
from lit_spec import JobRequest, SpecError
from lit_spec.answers.owners import Quotas
from lit_spec.requests.study import MOST_TRIALS, PlanRequest, StudyRequest


def specify_study(request: StudyRequest, inspections: Inspections, trackers: Trackers = Trackers()) -> StudySpec:
    """The study's specification. Every trial that it may make is checked like a job of its own."""
    spec = StudySpec(request=request, inspection=inspections.teacher, discriminator=inspections.discriminator)
    try:
        kind = kind_of(spec)
    except SpecError as wrong:
        raise RequestRefused.invalid_field(wrong.field, wrong.message) from wrong
    if kind.planned > MOST_TRIALS:
        raise RequestRefused.invalid_field(
            "seeds", f"make {kind.planned} trials, but a study may have at most {MOST_TRIALS}: give fewer"
        )
    for template in kind.templates():
        with renaming(template.blame):
            job = parse(JobRequest, template.request)
            _check_registers_nothing(job)
            trackers.check(job)
            student = specify(job, inspections).student
            if student.plan is not None and not isinstance(request, PlanRequest):
                raise RequestRefused.invalid_field(
                    "student.plan", 'trains no student that could be compared: make a study of kind "plan"'
                )
    return spec


def _check_registers_nothing(job: JobRequest) -> None:
    if job.registered_model is not None:
        message = "would register every trial: leave it out, and rerun the study's best job with it"
        raise RequestRefused.invalid_field("register", message)


def create_study(
    session: Session,
    owner: str,
    body: dict[str, Any],
    spec: StudySpec,
    idempotency: IdempotentRequest | None,
    defaults: Quotas = NO_QUOTAS,
) -> tuple[Study, list[str]]:
    """Add the study, or return the one that the same idempotent request made earlier.

    `defaults`: the quotas of owners without their own. Raises Conflict and QuotaExceeded as well.

    Also returns a queue for each new job, so that as many workers can be told. `body` is stored as it came.
    """
    try:
        return studies.create(session, owner, body, spec, idempotency=idempotency, defaults=defaults)
    except NotFound as deleted:
        with renaming(field_of_job):
            raise refuse_deleted_upload(spec.request.job, deleted.id) from deleted


@contextmanager
def renaming(rename: Callable[[str], str]) -> Iterator[None]:
    """In a RequestRefused that leaves the block, replace the fields of the job's request by the study's fields."""
    try:
        yield
    except RequestRefused as refused:
        raise refused.renamed(rename) from refused


def field_of_job(field: str) -> str:
    """A field of the study's base request, as the study names it."""
    return f"job.{field}"
