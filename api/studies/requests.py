"""From a request for a study to a row in the ledger, every one of its trials being right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.concurrency import run_in_threadpool

from api.http.bodies import validate
from api.http.context import Context
from api.http.problems import FieldError, Problem, invalid, invalid_field
from api.jobs.requests import inspections_of
from jobs.database.models import Study
from jobs.errors import NotFound
from jobs.studies import studies
from jobs.studies.plans.plan_of import kind_of
from jobs.studies.plans.trials import StudySpec
from lit_spec import Inspection, JobRequest, SpecError, resolve
from lit_spec.requests.study import MOST_TRIALS, STUDY_REQUESTS, StudyKind, StudyRequest


async def make_study(
    context: Context, owner: str, body: dict[str, Any], repeated: tuple[str, str] | None
) -> tuple[Study, list[str]]:
    """The new study, or that of the same request before; with it the queues to send wakeups to. Raises Problem."""
    request = _read(body)
    earlier = await run_in_threadpool(_find_repeated, context, owner, repeated)
    if earlier is not None:
        return earlier, []
    with _blaming(_in_job):
        inspections = await inspections_of(context, owner, request.job)
    return await run_in_threadpool(_create, context, owner, body, request, inspections, repeated)


def _read(body: dict[str, Any]) -> StudyRequest:
    try:
        model = STUDY_REQUESTS[StudyKind(str(body.get("kind")))]
    except ValueError:
        raise invalid_field("kind", f"must be one of {', '.join(STUDY_REQUESTS)}") from None
    return validate(model, body)


def _find_repeated(context: Context, owner: str, repeated: tuple[str, str] | None) -> Study | None:
    if repeated is None:
        return None
    with context.database.session() as session:
        return studies.find_repeated(session, owner, *repeated)


def _create(
    context: Context,
    owner: str,
    body: dict[str, Any],
    request: StudyRequest,
    inspections: dict[str, Inspection],
    repeated: tuple[str, str] | None,
) -> tuple[Study, list[str]]:
    spec = StudySpec(request=request, inspection=inspections["teacher"], discriminator=inspections.get("discriminator"))
    _check_trials(spec)
    try:
        with context.database.session() as session:
            return studies.create(session, owner, body, spec, idempotency=repeated)
    except NotFound as gone:
        # Deleted since it was looked at.
        field = "job.teacher" if gone.id == request.job.teacher else "job.dataset.upload"
        raise invalid_field(field, f"there is no upload {gone.id!r}") from gone


def _check_trials(spec: StudySpec) -> None:
    """Raises Problem 422 for anything that would not be taken as a job; it names the field of the study."""
    try:
        kind = kind_of(spec)
    except SpecError as wrong:
        raise invalid_field(wrong.field, wrong.message) from wrong
    if kind.planned > MOST_TRIALS:
        raise invalid_field("seeds", f"make {kind.planned} trials: a study has at most {MOST_TRIALS}")
    for template in kind.templates():
        with _blaming(template.blame):
            _check_job(template.request, spec.inspection, spec.discriminator)


def _check_job(body: dict[str, Any], inspection: Inspection, discriminator: Inspection | None) -> None:
    try:
        resolve(validate(JobRequest, body), inspection, discriminator)
    except SpecError as wrong:
        raise invalid_field(wrong.field, wrong.message) from wrong


@contextmanager
def _blaming(blame: Callable[[str], str]) -> Iterator[None]:
    """Problems of a job's request, told of the study's fields that are behind them."""
    try:
        yield
    except Problem as problem:
        errors = [FieldError(blame(error.field), error.message) for error in problem.errors]
        if problem.type == "invalid-request":
            raise invalid(errors) from problem
        raise Problem(problem.status, problem.type, problem.detail, errors=errors, headers=problem.headers) from problem


def _in_job(field: str) -> str:
    return f"job.{field}"
