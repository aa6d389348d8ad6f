"""/v1/studies: groups of jobs from one request, with one table as the result."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import StrEnum
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from api.http.accept import VARY, Accept, prefers
from api.http.auth import Owner
from api.http.bodies import JSON, JsonRoute, SentJson
from api.http.conditional import NOT_MODIFIED, IfMatch, InConditionalGet, require_unchanged
from api.http.context import Context, InContext, InReads, InSession, in_transaction, with_storage
from api.http.event_streams import EVENT_STREAM, Look, stream_events
from api.http.idempotency import IdempotencyKey, idempotent_request
from api.http.pages import InPages
from api.http.problems import Problem
from api.studies.requests import make_study
from api.studies.schemas import show_study
from jobs.database.models import Study as StudyRow
from jobs.errors import NotFound
from jobs.ledger import audit
from jobs.storage import removals
from jobs.studies import studies
from jobs.studies.kinds.table import as_csv
from jobs.studies.status import read_status
from jobs.studies.trial_rows import read_progress
from lit_spec.answers.pages import Page
from lit_spec.answers.studies import Study, StudyTable
from lit_spec.requests.study import AnyStudyRequest
from lit_spec.states import StudyState

CSV = "text/csv"

router = APIRouter(prefix="/v1/studies", tags=["studies"], route_class=JsonRoute)


class TableFormat(StrEnum):
    JSON = "json"
    CSV = "csv"


async def _forget_jobs(context: InContext) -> AsyncIterator[None]:
    """Before the answer and after the commit: what the answer says holds for the next request."""
    yield
    context.shown_jobs.forget_all()


CHANGES_TRIALS = Depends(_forget_jobs, scope="function")
"""Among the `dependencies` of a route, which come before the session of its parameters, and so end after it."""


@router.post("", status_code=202)
async def create_study(
    study: Annotated[AnyStudyRequest, Body()],
    sent: SentJson,
    response: Response,
    owner: Owner,
    context: InContext,
    idempotency_key: IdempotencyKey = None,
) -> Study:
    """Create a study with its first jobs. Every trial is checked before anything is stored."""
    made, queues = await make_study(context, owner, study, sent, idempotent_request(idempotency_key, sent))
    context.wakeups.send(queues)
    response.headers["Location"] = f"/v1/studies/{made.id}"
    return await run_in_threadpool(_read, context, owner, made.id)


@router.get("")
def list_studies(
    owner: Owner,
    session: InReads,
    page: InPages,
    state: Annotated[StudyState | None, Query(description="Only those in this state.")] = None,
    tag: Annotated[str | None, Query(description="Only those with this tag.")] = None,
    name: Annotated[str | None, Query(description="Only those with exactly this name.")] = None,
) -> Page[Study]:
    """The studies, newest first, without their tables."""
    rows = studies.list_page(session, owner, state=state, tag=tag, name=name, after=page.after(), limit=page.limit + 1)
    progress = read_progress(session, rows)
    return page.make_page(rows, lambda study: show_study(study, progress.get(study.id)))


@router.get("/{study_id}", response_model=Study, responses={**NOT_MODIFIED, 200: {"content": {EVENT_STREAM: {}}}})
@router.head("/{study_id}", response_class=Response, responses=NOT_MODIFIED)
async def get_study(
    study_id: str, owner: Owner, context: InContext, get: InConditionalGet, accept: Accept = ""
) -> Response:
    """One study. `wait` holds the answer until it is finished or, with If-None-Match, until it has changed.

    With `Accept: text/event-stream` the answer is a stream: `study` now and after each change, then `end`.
    """

    def look() -> Look:
        study = _read(context, owner, study_id)
        return Look([], study.model_dump_json(), finished=study.state.finished)

    if prefers(accept, EVENT_STREAM, over=JSON) and get.request.method == "GET":
        return await stream_events(context.long_polls, study_id, partial(run_in_threadpool, look), name="study")
    read = partial(_read, context, owner, study_id)
    return await get.answer(study_id, read, lambda study: study.state.finished, lambda _: VARY)


@router.get("/{study_id}/table", response_model=StudyTable, responses={200: {"content": {CSV: {}}}})
def get_table(
    study_id: str,
    owner: Owner,
    session: InReads,
    format: Annotated[TableFormat | None, Query(description="By default what Accept asks for, otherwise JSON.")] = None,
    accept: Accept = "",
) -> Response:
    """The table so far, as JSON or as CSV."""
    table = read_status(session, studies.get(session, owner, study_id)).table
    headers = VARY
    if format is TableFormat.CSV or (format is None and prefers(accept, CSV, over=JSON)):
        return Response(as_csv(table), media_type=CSV, headers=headers)
    return Response(table.model_dump_json(), media_type="application/json", headers=headers)


@router.post("/{study_id}/cancel", status_code=202, dependencies=[CHANGES_TRIALS])
def cancel_study(study_id: str, owner: Owner, session: InSession, if_match: IfMatch = None) -> Study:
    """Cancel a study and its trials. It is finished when the last trial is; 409 if it is finished already."""
    require_unchanged(if_match, lambda: _look(session, owner, study_id, lock=True))
    study = studies.request_cancel(session, owner, study_id)
    audit.record(session, "study.cancel", study_id)
    return _show(session, study)


@router.post("/{study_id}/resume", status_code=202)
def resume_study(study_id: str, owner: Owner, context: InContext, if_match: IfMatch = None) -> Study:
    """Continue a finished study with the results that it has; failed and cancelled trials are run again."""
    try:
        with context.database.session() as session:
            require_unchanged(if_match, lambda: _look(session, owner, study_id, lock=True))
            study, queues = studies.resume(session, owner, study_id, context.settings.quotas)
            audit.record(session, "study.resume", study_id)
            shown = _show(session, study)
    except NotFound as gone:
        if gone.kind != "upload":
            raise
        detail = f"the study needs upload {gone.id}, which was deleted: post its request again with another upload"
        raise Problem(409, "upload-gone", detail) from gone
    context.wakeups.send(queues)
    return shown


@router.delete("/{study_id}", status_code=204, dependencies=[CHANGES_TRIALS])
async def delete_study(study_id: str, owner: Owner, context: InContext, if_match: IfMatch = None) -> None:
    """Delete a finished study with its jobs, their files and metrics."""

    def delete(session: Session) -> list[str]:
        require_unchanged(if_match, lambda: _look(session, owner, study_id, lock=True))
        prefixes = studies.delete(session, owner, study_id)
        for prefix in prefixes:
            removals.record(session, prefix, removals.SETTLING_SECONDS)
        audit.record(session, "study.delete", study_id)
        return prefixes

    prefixes = await in_transaction(context, delete)
    await with_storage(context, removals.remove_now, context.storage, prefixes)


def _read(context: Context, owner: str, study_id: str) -> Study:
    with context.database.session() as session:
        return _look(session, owner, study_id)


def _look(session: Session, owner: str, study_id: str, *, lock: bool = False) -> Study:
    return _show(session, studies.get(session, owner, study_id, lock=lock))


def _show(session: Session, study: StudyRow) -> Study:
    return show_study(study, read_progress(session, [study]).get(study.id), read_status(session, study))
