"""From a parsed request for a study to its row: wait for the inspections that it needs, then call the ledger."""

from __future__ import annotations

from typing import Any

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from api.http.context import Context, in_transaction
from api.jobs.requests import check_dataset_url, inspections_of
from jobs.database.models import Study
from jobs.ledger import audit
from jobs.ledger.idempotency import IdempotentRequest, find_study
from jobs.studies.requests import create_study, field_of_job, renaming, specify_study
from lit_spec.requests.study import StudyRequest


async def make_study(
    context: Context, owner: str, request: StudyRequest, body: dict[str, Any], repeated: IdempotentRequest | None
) -> tuple[Study, list[str]]:
    """The new study, or the one that the same request made earlier; and the queues to send wake-ups to.

    `body` is the request as it was sent. Raises Problem, RequestRefused and QuotaExceeded.
    """
    earlier = await in_transaction(context, lambda session: find_study(session, owner, repeated))
    if earlier is not None:
        return earlier, []
    with renaming(field_of_job):
        check_dataset_url(context, request.job)
        inspections = await inspections_of(context, owner, request.job)
    spec = await run_in_threadpool(specify_study, request, inspections, context.trackers)

    def create(session: Session) -> tuple[Study, list[str]]:
        known = find_study(session, owner, repeated)
        if known is not None:
            return known, []
        made, queues = create_study(session, owner, body, spec, repeated, context.settings.quotas)
        audit.record(session, "study.create", made.id)
        return made, queues

    return await in_transaction(context, create)
