"""/v1/jobs: create jobs, follow them, download their files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Form, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import JsonValue
from sqlalchemy.orm import Session

from api.http.accept import VARY, Accept, prefers
from api.http.auth import Owner
from api.http.bodies import JSON, CreationRoute, JsonRoute, SentJson
from api.http.conditional import NOT_MODIFIED, IfMatch, InConditionalGet, UnderConditions, require_unchanged
from api.http.context import Context, InContext, InReads, InSession, in_reads, in_transaction, with_storage
from api.http.downloads import send_bytes, stream
from api.http.event_streams import EVENT_STREAM, LastEventId, stream_events
from api.http.forms import MULTIPART, FormRoute, refuse_repeated_parts
from api.http.idempotency import IdempotencyKey, idempotent_request
from api.http.long_polls import Wait
from api.http.numbers import WholeNumber
from api.http.pages import InPages
from api.http.problems import Problem
from api.http.shown_answers import ShownAnswer
from api.jobs.events import JobEvents
from api.jobs.forms import FormUploads, JobForm
from api.jobs.requests import make_job
from api.jobs.schemas import show_artifact, show_event, show_job, show_metric
from jobs.database.models import Job as JobRow
from jobs.errors import NotFound
from jobs.ledger import audit, metrics, owned_jobs, retention
from jobs.ledger.creation import Action
from jobs.ledger.idempotency import IdempotentRequest
from jobs.ledger.requests import parse
from jobs.storage import layout, removals
from jobs.storage.media_types import media_type
from jobs.storage.storage import StorageKeyMissing
from jobs.tracking import runs
from lit_spec import JobRequest, Phase
from lit_spec.answers.jobs import ArtifactPage, EventPage, Job, MetricPage
from lit_spec.answers.pages import Page
from lit_spec.merge_patch import merge_patch
from lit_spec.states import JobState

MERGE_PATCH = "application/merge-patch+json"
_REMOVED: dict[int | str, dict[str, Any]] = {410: {"description": "The files of the job were removed."}}

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)
forms = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=FormRoute)
"""Must be included before `creations`, because a form and a JSON body have the same path."""
creations = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=CreationRoute)


@forms.post(
    "",
    status_code=202,
    response_model=Job,
    dependencies=[Depends(refuse_repeated_parts)],
)
async def create_job_with_files(
    form: Annotated[JobForm, Form(media_type=MULTIPART)],
    owner: Owner,
    context: InContext,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Compress a teacher. Send the files first, through /v1/uploads, or in the same request, as the parts of a form."""
    hashes = await run_in_threadpool(form.hashes)
    repeated = idempotent_request(idempotency_key, {"job": form.job, "files": hashes})
    uploads = FormUploads(context, owner)
    job = await _make(context, owner, repeated, lambda: uploads.store(form, hashes))
    await with_storage(context, uploads.delete_unused, JobRequest.model_validate(job.request))
    return _accepted(context, job)


@creations.post("", status_code=202, response_model=Job)
async def create_job(
    job: Annotated[JobRequest, Body()],
    sent: SentJson,
    owner: Owner,
    context: InContext,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Compress a teacher. Send the files first, through /v1/uploads, or in the same request, as the parts of a form."""

    async def given() -> JobRequest:
        return job

    return _accepted(context, await _make(context, owner, idempotent_request(idempotency_key, sent), given))


@router.post("/{job_id}/rerun", status_code=202, response_model=Job)
async def rerun_job(
    job_id: str,
    changes: Annotated[dict[str, JsonValue], Body(media_type=MERGE_PATCH, examples=[{"student": {"depth": 20}}])],
    owner: Owner,
    context: InContext,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Response:
    """Run a job's request again as a new job, with changes: a JSON merge patch (RFC 7396) of the request."""

    def change() -> JobRequest:
        with context.database.session() as session:
            require_unchanged(if_match, lambda: _look(context, session, owner, job_id))
            return parse(JobRequest, merge_patch(owned_jobs.get(session, owner, job_id).request, changes))

    repeated = idempotent_request(idempotency_key, {"rerun": job_id, "changes": changes})
    action = Action("job.rerun", {"of": job_id})
    return _accepted(context, await _make(context, owner, repeated, lambda: run_in_threadpool(change), action))


async def _make(
    context: Context,
    owner: str,
    repeated: IdempotentRequest | None,
    prepare: Callable[[], Awaitable[JobRequest]],
    action: Action = Action(),
) -> JobRow:
    job, queues = await make_job(context, owner, repeated, prepare, action)
    context.wakeups.send(queues)
    return job


def _accepted(context: Context, job: JobRow) -> Response:
    # Written here, because FastAPI would check and write the answer in three steps.
    shown = show_job(job, context.settings.retention_days)
    return Response(shown.model_dump_json(), 202, {"Location": shown.links.self}, JSON)


def _look(context: Context, session: Session, owner: str, job_id: str, *, lock: bool = False) -> Job:
    job = owned_jobs.get(session, owner, job_id, lock=lock)
    waiting = owned_jobs.waiting_reason(session, job, context.settings.quotas)
    run = runs.of_jobs(session, [job_id]).get(job_id)
    return show_job(job, context.settings.retention_days, waiting, run)


@router.get("", response_model=Page[Job])
def list_jobs(
    owner: Owner,
    session: InReads,
    context: InContext,
    page: InPages,
    state: Annotated[JobState | None, Query(description="Only those in this state.")] = None,
    tag: Annotated[str | None, Query(description="Only those with this tag.")] = None,
    name: Annotated[str | None, Query(description="Only those with exactly this name.")] = None,
    study: Annotated[str | None, Query(description="Id of a study: only its trials.")] = None,
) -> Response:
    """List your jobs, newest first."""
    stamped = owned_jobs.list_page(
        session, owner, state=state, tag=tag, name=name, study_id=study, after=page.after(), limit=page.limit + 1
    )
    items = b",".join(context.listed_jobs.show(session, stamped[: page.limit]))
    next_cursor = json.dumps(page.next_cursor(stamped)).encode()
    return Response(b'{"items":[%b],"next_cursor":%b}' % (items, next_cursor), media_type=JSON)


@router.get("/{job_id}", response_model=Job, responses=NOT_MODIFIED)
@router.head("/{job_id}", response_class=Response, responses=NOT_MODIFIED)
async def get_job(job_id: str, owner: Owner, context: InContext, get: InConditionalGet) -> Response:
    """One job. `wait` holds the answer until the job is finished or, with If-None-Match, until it has changed."""

    return await get.answer_with(job_id, lambda: _shown(context, owner, job_id))


async def _shown(context: Context, owner: str, job_id: str) -> ShownAnswer:
    """What GET answers about the job. Raises NotFound."""

    def look() -> Job:
        with context.database.reading() as session:
            return _look(context, session, owner, job_id)

    known = context.shown_jobs.known((owner, job_id))
    return await context.shown_jobs.read((owner, job_id), look) if known is None else known


async def _forget_shown(job_id: str, context: InContext) -> AsyncIterator[None]:
    """Before the answer and after the commit: what the answer says holds for the next request."""
    yield
    context.shown_jobs.forget(job_id)


CHANGES_JOB = Depends(_forget_shown, scope="function")
"""Among the `dependencies` of a route, which come before the session of its parameters, and so end after it."""


@router.post("/{job_id}/cancel", status_code=202, dependencies=[CHANGES_JOB])
def cancel_job(job_id: str, owner: Owner, session: InSession, context: InContext, if_match: IfMatch = None) -> Job:
    """Cancel a job: at once if it is queued, within seconds if it is running. 409 if it has succeeded or failed."""
    require_unchanged(if_match, lambda: _look(context, session, owner, job_id, lock=True))
    owned_jobs.request_cancel(session, owner, job_id)
    audit.record(session, "job.cancel", job_id)
    return _look(context, session, owner, job_id)


@router.post("/{job_id}/keep", responses=_REMOVED, dependencies=[CHANGES_JOB])
def keep_job(job_id: str, owner: Owner, session: InSession, context: InContext, if_match: IfMatch = None) -> Job:
    """Keep the files of a job, also beyond the time after which the service removes files. It may be unfinished."""
    return _set_kept(context, session, owner, job_id, if_match, kept=True)


@router.delete("/{job_id}/keep", responses=_REMOVED, dependencies=[CHANGES_JOB])
def unkeep_job(job_id: str, owner: Owner, session: InSession, context: InContext, if_match: IfMatch = None) -> Job:
    """Let the files of a job be removed when their time has come."""
    return _set_kept(context, session, owner, job_id, if_match, kept=False)


def _set_kept(context: Context, session: Session, owner: str, job_id: str, if_match: str | None, *, kept: bool) -> Job:
    require_unchanged(if_match, lambda: _look(context, session, owner, job_id, lock=True))
    job = retention.set_kept(session, owner, job_id, kept)
    _require_files(job)
    audit.record(session, "job.keep" if kept else "job.unkeep", job_id)
    return _look(context, session, owner, job_id)


@router.delete("/{job_id}", status_code=204, dependencies=[CHANGES_JOB])
async def delete_job(job_id: str, owner: Owner, context: InContext, if_match: IfMatch = None) -> None:
    """Delete a finished job with its files and metrics."""

    def delete(session: Session) -> str:
        require_unchanged(if_match, lambda: _look(context, session, owner, job_id, lock=True))
        prefix = owned_jobs.delete(session, owner, job_id)
        removals.record(session, prefix, removals.SETTLING_SECONDS)
        audit.record(session, "job.delete", job_id)
        return prefix

    prefix = await in_transaction(context, delete)
    await with_storage(context, removals.remove_now, context.storage, [prefix])


@router.get("/{job_id}/events", response_model=EventPage, responses={200: {"content": {EVENT_STREAM: {}}}})
async def list_events(
    job_id: str,
    owner: Owner,
    context: InContext,
    after: Annotated[WholeNumber, Query(ge=0, le=2**62, description="Number of the last event that you have.")] = 0,
    limit: Annotated[WholeNumber, Query(ge=1, le=1000, description="The most events in the answer.")] = 100,
    wait: Wait = 0,
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """What happened to a job after event number `after`; `wait` holds the answer until there is something.

    With `Accept: text/event-stream` the answer is a stream of server-sent events until the job has finished. Each event
    of the job has its number as `id`, its type as `event` and an Event as `data`. Between them `progress` tells a
    JobLive, at most once a second; `end` is the last one. `limit` and `wait` have no effect on a stream, and the header
    Last-Event-ID replaces `after`.
    """
    if prefers(accept, EVENT_STREAM, over=JSON):
        events = JobEvents(context.job_looks, owner, job_id, after if last_event_id is None else last_event_id)
        return await stream_events(context.long_polls, job_id, events.look, name="progress")

    def read() -> EventPage:
        with context.database.reading() as session:
            job = owned_jobs.get(session, owner, job_id)
            found = [show_event(event) for event in owned_jobs.events_after(session, job_id, after, limit)]
            last = found[-1].seq if found else 0
            return EventPage(items=found, last=max(job.event_seq, last))

    page = await context.long_polls.until(
        job_id, wait, lambda: run_in_threadpool(read), lambda events: bool(events.items)
    )
    return Response(page.model_dump_json(), media_type=JSON, headers=VARY)


@router.get("/{job_id}/metrics")
def list_metrics(
    job_id: str,
    owner: Owner,
    session: InReads,
    phase: Annotated[Phase | None, Query(description="Only those of this phase.")] = None,
    name: Annotated[str | None, Query(description="Only those of this name.")] = None,
) -> MetricPage:
    """A job's numbers per phase and epoch: losses, accuracies on the validation split, learning rate, seconds."""
    owned_jobs.get(session, owner, job_id)
    return MetricPage(items=[show_metric(metric) for metric in metrics.read(session, job_id, phase=phase, name=name)])


@router.get("/{job_id}/log", response_class=StreamingResponse, responses={200: {"content": {"text/plain": {}}}})
async def get_log(
    job_id: str,
    owner: Owner,
    context: InContext,
    attempt: Annotated[
        WholeNumber | None, Query(ge=1, description="Number of an attempt; the newest by default.")
    ] = None,
) -> Response:
    """What the trainer wrote; empty before the trainer has started."""
    job = await in_reads(context, lambda session: owned_jobs.get(session, owner, job_id))
    _require_files(job)
    if attempt is not None and attempt > job.attempt:
        raise NotFound("attempt", f"{attempt} of {job_id}")
    try:
        key = layout.trainer_log(job_id, attempt or job.attempt)
        file = await with_storage(context, context.storage.open, key, grows=True)
    except StorageKeyMissing:
        return Response("", media_type="text/plain")
    headers = {"X-Content-Type-Options": "nosniff"}
    return StreamingResponse(stream(context, file), media_type="text/plain", headers=headers)


@router.get("/{job_id}/artifacts")
def list_artifacts(job_id: str, owner: Owner, session: InReads) -> ArtifactPage:
    """List the files of a job, with their sha256. A job that has not succeeded has no files."""
    job = owned_jobs.get(session, owner, job_id)
    return ArtifactPage(items=[show_artifact(job_id, artifact) for artifact in job.manifest or []])


@router.get(
    "/{job_id}/artifacts/{name}",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}},
        206: {"description": "The requested range."},
        307: {"description": "With `presigned`: the file at the object store."},
        **NOT_MODIFIED,
        **_REMOVED,
        416: {"description": "The file has no such range."},
    },
)
@router.head("/{job_id}/artifacts/{name}", response_class=Response, responses=NOT_MODIFIED)
async def download_artifact(
    job_id: str,
    name: str,
    request: Request,
    owner: Owner,
    context: InContext,
    conditions: UnderConditions,
    presigned: Annotated[
        bool, Query(description="Be sent to the object store, for a while without a key, if the service can do that.")
    ] = False,
) -> Response:
    """Download one file. Takes Range and If-Range; ETag and Repr-Digest are the file's sha256."""
    job = await in_reads(context, lambda session: owned_jobs.get(session, owner, job_id))
    artifact = _find(job, name)
    _require_files(job)
    # The URL is signed for GET alone.
    if presigned and request.method == "GET" and (url := context.storage.download_url(artifact["key"])) is not None:
        return RedirectResponse(url, 307, {"Cache-Control": "no-store"})
    try:
        return await with_storage(
            context,
            send_bytes,
            request,
            context,
            conditions=conditions,
            open_file=lambda: context.storage.open(artifact["key"]),
            size=artifact["size"],
            sha256=artifact["sha256"],
            media_type=media_type(name),
            filename=name,
        )
    except StorageKeyMissing:
        # The job was deleted after its row was read.
        raise NotFound("artifact", f"{name} of {job_id} in storage") from None


def _require_files(job: JobRow) -> None:
    """Raises Problem 410 if the files of the job are removed."""
    if job.files_removed_at is not None:
        detail = (
            f"the files of {job.id} were removed on {job.files_removed_at:%Y-%m-%d}, because the service keeps files "
            f"for a limited time: run it again (POST /v1/jobs/{job.id}/rerun), and keep the next one (POST …/keep)"
        )
        raise Problem(410, "artifact-removed", detail)


def _find(job: JobRow, name: str) -> dict[str, Any]:
    for artifact in job.manifest or []:
        if artifact["name"] == name:
            return artifact
    raise NotFound("artifact", f"{name} of {job.id}, which is {job.state}")


POLLED = next(route for route in router.routes if isinstance(route, APIRoute) and route.endpoint is get_job)
"""The route of `GET /v1/jobs/{job_id}`."""
