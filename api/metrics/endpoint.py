"""`GET /metrics`, for Prometheus."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.http.auth import refuse_browsers_of_others
from api.http.context import Context, InContext
from api.http.problems import Problem
from jobs.exposition import is_token
from jobs.ledger import keys

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request, context: InContext) -> Response:
    """The numbers of this process and of the ledger, as text or OpenMetrics by Accept."""
    await run_in_threadpool(_check_reader, request, context)
    # At the same time, because each waits for a database that is away, and scrapes have little time.
    _, parts = await asyncio.gather(run_in_threadpool(context.metrics.look), context.readiness.parts())
    context.metrics.set_ready(parts)
    accept = request.headers.get("Accept", "")
    content, media_type = await run_in_threadpool(context.metrics.exposition, accept)
    return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-store"})


def _check_reader(request: Request, context: Context) -> None:
    """Let in whoever has the token; without a token, those whom a service without keys serves at all: this machine.

    Raises Problem 401 or 403.
    """
    token = context.settings.metrics_token
    if token is not None:
        if not is_token(request.headers.get("Authorization"), token):
            raise _unauthorized("send the token of LIT_METRICS_TOKEN as `Authorization: Bearer …`")
        return
    with context.database.session() as session:
        is_open = context.keyless and not keys.any_keys(session)
    if not is_open:
        raise _unauthorized("on a service with API keys only a token opens /metrics: set LIT_METRICS_TOKEN")
    refuse_browsers_of_others(request)


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
