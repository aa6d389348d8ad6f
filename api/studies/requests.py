"""From a parsed request for a study to its row: wait for the inspections that it needs, then call the ledger."""

from __future__ import annotations

from typing import Any

from fastapi.concurrency import run_in_threadpool

from api.http.context import Context
from api.http.problems import Problem
from api.jobs.requests import inspections_of
from jobs.database.models import Study
from jobs.ledger.idempotency import IdempotentRequest, find_study
from jobs.ledger.requests import Inspections
from jobs.studies.requests import create_study, field_of_job, plan_study, renaming
from lit_spec.mistakes import Mistake
from lit_spec.requests.study import StudyRequest


async def make_study(
    context: Context, owner: str, request: StudyRequest, body: dict[str, Any], repeated: IdempotentRequest | None
) -> tuple[Study, list[str]]:
    """The new study, or the one that the same request made earlier; and the queues to send wake-ups to.

    `body` is the request as it was sent. Raises Problem and RequestRefused.
    """
    earlier = await run_in_threadpool(_find_repeated, context, owner, repeated)
    if earlier is not None:
        return earlier, []
    try:
        with renaming(field_of_job):
            inspections = await inspections_of(context, owner, request.job)
    except Problem as problem:
        problem.errors = [Mistake(field_of_job(error.field), error.message) for error in problem.errors]
        raise
    return await run_in_threadpool(_create, context, owner, body, request, inspections, repeated)


def _find_repeated(context: Context, owner: str, repeated: IdempotentRequest | None) -> Study | None:
    with context.database.session() as session:
        return find_study(session, owner, repeated)


def _create(
    context: Context,
    owner: str,
    body: dict[str, Any],
    request: StudyRequest,
    inspections: Inspections,
    repeated: IdempotentRequest | None,
) -> tuple[Study, list[str]]:
    spec = plan_study(request, inspections)
    with context.database.session() as session:
        return create_study(session, owner, body, spec, repeated)
