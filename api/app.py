"""The application: routes, problems, and what lives as long as the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import anyio.to_thread
from fastapi import APIRouter, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.routing import BaseRoute

from api import broker, health, openapi, traces
from api.architectures import endpoints as architectures
from api.audit import endpoints as audit
from api.http import problems, schemas
from api.http.actors import Actors
from api.http.callers import KnownCallers
from api.http.context import Context
from api.http.headers import BrowserHeaders, HeaderChecks
from api.http.long_polls import LongPolls
from api.http.request_log import RequestLog
from api.http.tokens import open_tokens
from api.http.wakeups import BackgroundWakeups
from api.jobs import endpoints as jobs
from api.jobs.events import open_job_looks
from api.jobs.listed_jobs import ListedJobs
from api.jobs.polls import JobPolls
from api.jobs.shown_jobs import ShownJobs
from api.keys import endpoints as keys
from api.metrics import endpoint as monitoring
from api.metrics.process import ApiMetrics
from api.owners import endpoints as owners
from api.page import endpoints as page
from api.readiness import Readiness
from api.studies import endpoints as studies
from api.uploads import direct as direct_uploads
from api.uploads import endpoints as uploads
from api.webhooks import endpoints as webhooks
from jobs.broker.wakeups import Wakeups
from jobs.database.connection import Database
from jobs.database.notifications import Listener
from jobs.housekeeping import Housekeeper
from jobs.ledger.inspected_uploads import InspectedUploads
from jobs.settings import Settings
from jobs.storage.opening import open_storage
from jobs.tracing import OFF, Tracing
from jobs.version import VERSION
from jobs.webhooks.addresses import Receivers
from jobs.webhooks.deliverer import Deliverer
from jobs.webhooks.networks import AllowedNetworks
from jobs.webhooks.sender import Sender

THREADS = 40
DESCRIPTION = """Makes a deep network shallower without losing its accuracy (LIT, Koratana et al., ICML 2019).

Upload a teacher, ask for a job, watch it, download the student. Studies are groups of jobs with one table. Errors are
problems (RFC 9457) with a stable `type`.
"""


def create_app(
    settings: Settings, *, keyless: bool, tracing: Tracing = OFF, process_number: int | None = None
) -> FastAPI:
    """The API. `keyless` lets callers in without a key while none exists: for loopback addresses only.

    `process_number`: which of several processes on one port this is, from 1. None: the only one.

    Raises ValueError when the settings lack the database or the broker.
    """
    if settings.database_url is None or settings.redis_url is None:
        raise ValueError("the API needs DATABASE_URL and REDIS_URL")
    database_url, redis_url = settings.database_url, settings.redis_url
    metrics = ApiMetrics(process_number)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        database, listener = Database(database_url, pool_size=THREADS // 2), Listener(database_url)
        sender = broker.make_app(redis_url)
        wakeups = Wakeups(sender, redis_url)
        background_wakeups = BackgroundWakeups(wakeups)
        storage = open_storage(settings)
        long_polls = LongPolls(listener, metrics.long_polls)
        housekeeper = Housekeeper(database, wakeups, settings, storage)
        networks = AllowedNetworks.parse(settings.webhook_allowed_networks)
        # Requests and deliveries have their own, so that neither keeps the other from looking names up.
        receivers = Receivers(networks)
        deliverer = Deliverer(database, listener, Sender(Receivers(networks), settings.public_url))
        readiness = Readiness(database, wakeups, storage)
        metrics.watch(database, settings)
        tokens = open_tokens(settings)
        app.state.context = Context(
            settings,
            database,
            storage,
            background_wakeups,
            long_polls,
            readiness,
            receivers,
            metrics,
            keyless,
            tokens,
            callers=KnownCallers(listener),
            shown_jobs=ShownJobs(listener),
            job_looks=open_job_looks(database),
            listed_jobs=ListedJobs(settings.retention_days),
            inspected_uploads=InspectedUploads(database),
        )
        await listener.start()
        housekeeper.start()
        background_wakeups.start()
        await deliverer.start()
        following = asyncio.create_task(metrics.follow(), name="ledger-events")
        try:
            yield
        finally:
            following.cancel()
            await deliverer.stop()
            await run_in_threadpool(housekeeper.stop)
            await listener.stop()
            if tokens is not None:
                await tokens.close()
            await run_in_threadpool(background_wakeups.stop)
            wakeups.close()
            sender.close()
            metrics.unwatch()
            database.close()
            await run_in_threadpool(tracing.close)

    app = FastAPIOffline(
        redoc_url=None,
        title="LIT",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would lead to whatever Host says
        # `traces.instrument` makes the spans. FastAPI itself would look for another tracer at each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    _add_middleware(app, metrics)
    problems.install(app)
    app.router.routes.extend(_routes())
    openapi.install(app)
    traces.instrument(app, tracing)
    return app


@cache
def _routes() -> list[BaseRoute]:
    """The same for all applications of a process. FastAPI looks at a route's parameters when it is first asked for."""
    root = APIRouter()
    for router in (
        jobs.forms,
        jobs.creations,
        jobs.router,
        uploads.router,
        direct_uploads.router,
        studies.router,
        architectures.router,
        webhooks.router,
        owners.router,
        keys.router,
        audit.router,
        health.router,
    ):
        root.include_router(router, responses={"default": {"model": schemas.Problem}})
    root.include_router(page.router)
    root.add_api_route("/problems/{type}", _explain, include_in_schema=False, response_class=PlainTextResponse)
    root.include_router(monitoring.router)
    return root.routes


def _add_middleware(app: FastAPI, metrics: ApiMetrics) -> None:
    """Each one around those before it."""
    app.add_middleware(Actors)
    app.add_middleware(JobPolls, route=jobs.POLLED)
    app.add_middleware(HeaderChecks)
    app.add_middleware(BrowserHeaders)
    app.add_middleware(RequestLog, metrics=metrics.http)


def _explain(type: str) -> str:
    """What the `type` of a problem links to."""
    if type not in problems.TITLES:
        raise problems.Problem(404, "not-found", f"There is no problem type {type!r}: see docs/api.md for the types")
    return f"{problems.TITLES[type]}.\n"
