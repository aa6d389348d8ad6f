"""/v1/studies: groups of jobs from one request, with one table as the result."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from api.http.auth import Owner
from api.http.bodies import read_json
from api.http.context import Context, InContext, InSession
from api.http.etags import etag_of, matches
from api.http.long_polls import Wait
from api.http.pages import Cursor, Limit, make_page, read_cursor
from api.http.problems import Problem
from api.jobs.requests import idempotency
from api.studies.requests import make_study
from api.studies.schemas import show_study
from jobs.database.models import Study as StudyRow
from jobs.errors import NotFound
from jobs.studies import studies
from jobs.studies.plans.table import as_csv
from jobs.studies.status import read_status
from jobs.studies.trial_rows import read_progress
from lit_spec.answers.pages import Page
from lit_spec.answers.studies import Study, StudyTable
from lit_spec.states import StudyState

CSV = "text/csv"

router = APIRouter(prefix="/v1/studies", tags=["studies"])

IdempotencyKey = Annotated[
    str | None, Header(description="The same key with the same request gives the study of the first, for a week.")
]
_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"$ref": "#/components/schemas/CompareRequest"},
                        {"$ref": "#/components/schemas/SearchRequest"},
                        {"$ref": "#/components/schemas/DepthRequest"},
                    ],
                    "discriminator": {"propertyName": "kind"},
                }
            }
        },
    }
}


class TableFormat(StrEnum):
    JSON = "json"
    CSV = "csv"


@router.post("", status_code=202, response_model=Study, openapi_extra=_REQUEST_BODY)
async def create_study(
    request: Request,
    response: Response,
    background: BackgroundTasks,
    owner: Owner,
    context: InContext,
    idempotency_key: IdempotencyKey = None,
) -> Study:
    """Make a study with its first jobs. Every trial is checked before anything is stored."""
    body = await read_json(request)
    study, queues = await make_study(context, owner, body, idempotency(idempotency_key, body))
    for queue in queues:
        background.add_task(context.wakeups, queue)
    response.headers["Location"] = f"/v1/studies/{study.id}"
    return await run_in_threadpool(_look, context, owner, study.id)


@router.get("")
def list_studies(
    owner: Owner,
    session: InSession,
    state: StudyState | None = None,
    tag: str | None = None,
    name: str | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[Study]:
    """The studies, newest first, without their tables."""
    after = read_cursor(cursor)
    rows = studies.list_page(session, owner, state=state, tag=tag, name=name, after=after, limit=limit + 1)
    progress = read_progress(session, rows)
    return make_page(rows, limit, lambda study: show_study(study, progress.get(study.id)))


@router.get("/{study_id}", response_model=Study, responses={304: {"description": "As the caller knows it."}})
async def get_study(
    study_id: str,
    owner: Owner,
    context: InContext,
    wait: Wait = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """One study. `wait` holds the answer until it has ended or, with If-None-Match, until it has changed."""

    def look() -> tuple[Study, str, str]:
        shown = _look(context, owner, study_id)
        text = shown.model_dump_json()
        return shown, text, etag_of(text)

    def answers(looked: tuple[Study, str, str]) -> bool:
        shown, _, etag = looked
        return shown.state.finished if if_none_match is None else not matches(if_none_match, etag)

    _, text, etag = await context.polls.until(study_id, wait, look, answers)
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(text, media_type="application/json", headers=headers)


@router.get("/{study_id}/table", response_model=StudyTable, responses={200: {"content": {CSV: {}}}})
def get_table(
    study_id: str,
    owner: Owner,
    session: InSession,
    format: Annotated[TableFormat | None, Query(description="By default what Accept asks for, or else JSON.")] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """The table so far, as JSON or as CSV."""
    table = read_status(session, studies.get(session, owner, study_id)).table
    headers = {"Vary": "Accept"}
    if format is TableFormat.CSV or (format is None and CSV in accept):
        return Response(as_csv(table), media_type=CSV, headers=headers)
    return Response(table.model_dump_json(), media_type="application/json", headers=headers)


@router.post("/{study_id}/cancel", status_code=202)
def cancel_study(study_id: str, owner: Owner, session: InSession) -> Study:
    """Ask for a study's end: its trials are cancelled, and it ends with the last of them; 409 if it has ended."""
    return _show(session, studies.request_cancel(session, owner, study_id))


@router.post("/{study_id}/resume", status_code=202)
def resume_study(study_id: str, background: BackgroundTasks, owner: Owner, context: InContext) -> Study:
    """Let a study that ended go on from what is there; trials that failed or were cancelled are made anew."""
    try:
        with context.database.session() as session:
            study, queues = studies.resume(session, owner, study_id)
            shown = _show(session, study)
    except NotFound as gone:
        if gone.kind != "upload":
            raise
        detail = f"the study needs upload {gone.id}, which was deleted: post its request again with another upload"
        raise Problem(409, "upload-gone", detail) from gone
    for queue in queues:
        background.add_task(context.wakeups, queue)
    return shown


@router.delete("/{study_id}", status_code=204)
def delete_study(study_id: str, owner: Owner, context: InContext) -> None:
    """Remove a study that has ended, with its jobs and all that they left."""
    with context.database.session() as session:
        prefixes = studies.delete(session, owner, study_id)
    for prefix in prefixes:
        context.storage.delete_prefix(prefix)


def _look(context: Context, owner: str, study_id: str) -> Study:
    with context.database.session() as session:
        return _show(session, studies.get(session, owner, study_id))


def _show(session: Session, study: StudyRow) -> Study:
    return show_study(study, read_progress(session, [study]).get(study.id), read_status(session, study))
