"""/v1/jobs: ask for compressions, watch them, fetch what they left."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from api.http.auth import Owner
from api.http.bodies import read_json
from api.http.context import Context, InContext, InSession
from api.http.downloads import send_bytes, stream
from api.http.etags import etag_of, matches
from api.http.long_polls import Wait
from api.http.pages import Cursor, Limit, make_page, read_cursor
from api.jobs.requests import idempotency, make_job, read_job_request
from api.jobs.schemas import media_type, show_artifact, show_event, show_job, show_metric
from jobs.database.models import Job as JobRow
from jobs.errors import NotFound
from jobs.ledger import owned_jobs
from jobs.storage import layout
from jobs.storage.storage import StorageKeyMissing
from lit_spec import Phase
from lit_spec.answers.jobs import ArtifactPage, EventPage, Job, MetricPage
from lit_spec.answers.pages import Page
from lit_spec.merge_patch import merge_patch
from lit_spec.states import JobState

MERGE_PATCH = "application/merge-patch+json"

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

IdempotencyKey = Annotated[
    str | None, Header(description="The same key with the same request gives the job of the first, for a week.")
]
_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["job"],
                    "properties": {
                        "job": {"type": "string", "description": "The request as JSON, without the files' ids."},
                        "teacher": {"type": "string", "format": "binary"},
                        "dataset": {"type": "string", "format": "binary"},
                    },
                }
            },
        },
    }
}
_PATCH_BODY = {"requestBody": {"content": {MERGE_PATCH: {"schema": {"type": "object"}}}}}


@router.post("", status_code=202, response_model=Job, openapi_extra=_REQUEST_BODY)
async def create_job(
    request: Request,
    response: Response,
    background: BackgroundTasks,
    owner: Owner,
    context: InContext,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Compress a teacher. The files go first through /v1/uploads, or along as a form's parts."""
    body = await read_job_request(request, owner, context)
    return await _make(context, owner, body, idempotency_key, response, background)


@router.post("/{job_id}/rerun", status_code=202, openapi_extra=_PATCH_BODY)
async def rerun_job(
    job_id: str,
    request: Request,
    response: Response,
    background: BackgroundTasks,
    owner: Owner,
    context: InContext,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Run a job's request again as a new job, with changes: a JSON merge patch (RFC 7396) of the request."""
    changes = await read_json(request, ("application/json", MERGE_PATCH))
    before = await run_in_threadpool(_request_of, context, owner, job_id)
    return await _make(context, owner, merge_patch(before, changes), idempotency_key, response, background)


async def _make(
    context: Context,
    owner: str,
    body: dict[str, Any],
    idempotency_key: str | None,
    response: Response,
    background: BackgroundTasks,
) -> Job:
    job, queues = await make_job(context, owner, body, idempotency(idempotency_key, body))
    for queue in queues:
        background.add_task(context.wakeups, queue)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return show_job(job)


def _request_of(context: Context, owner: str, job_id: str) -> dict[str, Any]:
    with context.database.session() as session:
        return owned_jobs.get(session, owner, job_id).request


@router.get("")
def list_jobs(
    owner: Owner,
    session: InSession,
    state: JobState | None = None,
    tag: str | None = None,
    name: str | None = None,
    study: Annotated[str | None, Query(description="Id of a study: its trials alone.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[Job]:
    """The jobs, newest first."""
    after = read_cursor(cursor)
    rows = owned_jobs.list_page(
        session, owner, state=state, tag=tag, name=name, study_id=study, after=after, limit=limit + 1
    )
    return make_page(rows, limit, show_job)


@router.get("/{job_id}", response_model=Job, responses={304: {"description": "As the caller knows it."}})
@router.head("/{job_id}", response_class=Response, responses={304: {"description": "As the caller knows it."}})
async def get_job(
    job_id: str,
    request: Request,
    owner: Owner,
    context: InContext,
    wait: Wait = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """One job. `wait` holds the answer until the job has ended or, with If-None-Match, until it has changed."""

    def look() -> tuple[Job, str, str]:
        with context.database.session() as session:
            job = owned_jobs.get(session, owner, job_id)
            shown = show_job(job, owned_jobs.waiting_reason(session, job))
        text = shown.model_dump_json()
        return shown, text, etag_of(text)

    def answers(looked: tuple[Job, str, str]) -> bool:
        shown, _, etag = looked
        return shown.state.finished if if_none_match is None else not matches(if_none_match, etag)

    _, text, etag = await context.polls.until(job_id, wait, look, answers)
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    content = text.encode()
    headers["Content-Length"] = str(len(content))
    shown = b"" if request.method == "HEAD" else content
    return Response(shown, media_type="application/json", headers=headers)


@router.post("/{job_id}/cancel", status_code=202)
def cancel_job(job_id: str, owner: Owner, session: InSession) -> Job:
    """Ask for a job's end: at once if it waits, within 20 s if it runs; 409 if it has ended."""
    return show_job(owned_jobs.request_cancel(session, owner, job_id))


@router.delete("/{job_id}", status_code=204)
def delete_job(job_id: str, owner: Owner, context: InContext) -> None:
    """Remove a job that has ended, with all that it left."""
    with context.database.session() as session:
        prefix = owned_jobs.delete(session, owner, job_id)
    context.storage.delete_prefix(prefix)


@router.get("/{job_id}/events")
async def list_events(
    job_id: str,
    owner: Owner,
    context: InContext,
    after: Annotated[int, Query(ge=0, le=2**62, description="Number of the last event that you have.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    wait: Wait = 0,
) -> EventPage:
    """What happened to a job after event number `after`; `wait` holds the answer until there is something."""

    def look() -> EventPage:
        with context.database.session() as session:
            job = owned_jobs.get(session, owner, job_id)
            found = [show_event(event) for event in owned_jobs.events_after(session, job_id, after, limit)]
            last = found[-1].seq if found else 0
            return EventPage(items=found, last=max(job.event_seq, last))

    return await context.polls.until(job_id, wait, look, lambda events: bool(events.items))


@router.get("/{job_id}/metrics")
def list_metrics(
    job_id: str, owner: Owner, session: InSession, phase: Phase | None = None, name: str | None = None
) -> MetricPage:
    """A job's numbers per phase and epoch: losses, accuracies on the validation split, learning rate, seconds."""
    owned_jobs.get(session, owner, job_id)
    return MetricPage(
        items=[show_metric(metric) for metric in owned_jobs.metrics(session, job_id, phase=phase, name=name)]
    )


@router.get("/{job_id}/log", response_class=StreamingResponse, responses={200: {"content": {"text/plain": {}}}})
def get_log(
    job_id: str,
    owner: Owner,
    context: InContext,
    attempt: Annotated[int | None, Query(ge=1, description="Of an earlier attempt; the newest's by default.")] = None,
) -> Response:
    """What the trainer wrote; empty before it has begun."""
    with context.database.session() as session:
        job = owned_jobs.get(session, owner, job_id)
    if attempt is not None and attempt > job.attempt:
        raise NotFound("attempt", f"{attempt} of {job_id}")
    try:
        file = context.storage.open(layout.trainer_log(job_id, attempt or job.attempt))
    except StorageKeyMissing:
        return Response("", media_type="text/plain")
    return StreamingResponse(stream(file), media_type="text/plain", headers={"X-Content-Type-Options": "nosniff"})


@router.get("/{job_id}/artifacts")
def list_artifacts(job_id: str, owner: Owner, session: InSession) -> ArtifactPage:
    """The files that a job left, with their sha256; none before it has succeeded."""
    job = owned_jobs.get(session, owner, job_id)
    return ArtifactPage(items=[show_artifact(job_id, artifact) for artifact in job.manifest or []])


@router.get(
    "/{job_id}/artifacts/{name}",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}},
        206: {"description": "The range asked for."},
        304: {"description": "As the caller has it."},
        416: {"description": "There is no such range."},
    },
)
@router.head("/{job_id}/artifacts/{name}", response_class=Response)
def download_artifact(job_id: str, name: str, request: Request, owner: Owner, context: InContext) -> Response:
    """One file; takes Range and If-Range. ETag and Repr-Digest are its sha256."""
    with context.database.session() as session:
        artifact = _find(owned_jobs.get(session, owner, job_id), name)
    try:
        return send_bytes(
            request,
            open_file=lambda: context.storage.open(artifact["key"]),
            size=artifact["size"],
            sha256=artifact["sha256"],
            media_type=media_type(name),
            filename=name,
        )
    except StorageKeyMissing:
        # The job has been deleted since it was looked at.
        raise NotFound("artifact", f"{name} of {job_id} in storage") from None


def _find(job: JobRow, name: str) -> dict[str, Any]:
    for artifact in job.manifest or []:
        if artifact["name"] == name:
            return artifact
    raise NotFound("artifact", f"{name} of {job.id}, which is {job.state}")
