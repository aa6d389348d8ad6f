"""What the handlers of one API process share, and the dependencies that hand it to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, ParamSpec, TypeVar

import anyio
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from api.http.callers import KnownCallers
from api.http.long_polls import LongPolls
from api.http.tokens import Tokens
from api.http.wakeups import BackgroundWakeups
from api.jobs.events import JobLooks
from api.jobs.listed_jobs import ListedJobs
from api.jobs.shown_jobs import ShownJobs
from api.metrics.process import ApiMetrics
from api.readiness import Readiness
from jobs.database.connection import Database
from jobs.ledger.inspected_uploads import InspectedUploads
from jobs.settings import Settings
from jobs.storage.storage import Storage
from jobs.tracking.trackers import Trackers
from jobs.webhooks.addresses import Receivers

P = ParamSpec("P")
T = TypeVar("T")

STORAGE_THREADS = 20
"""So many requests of one process wait for storage at once. The others wait for them, but not the rest of the API."""


@dataclass(frozen=True)
class Context:
    settings: Settings
    database: Database
    storage: Storage
    wakeups: BackgroundWakeups
    long_polls: LongPolls
    readiness: Readiness
    receivers: Receivers
    metrics: ApiMetrics
    keyless: bool
    """Whether the service may be used without a key as long as none exists."""
    tokens: Tokens | None
    """Checks bearer tokens; None: only API keys are accepted."""
    callers: KnownCallers
    shown_jobs: ShownJobs
    job_looks: JobLooks
    listed_jobs: ListedJobs
    inspected_uploads: InspectedUploads
    storage_threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(STORAGE_THREADS))

    @cached_property
    def trackers(self) -> Trackers:
        """Where runs of jobs may go."""
        return Trackers.of(self.settings)


def get_context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _context(request: Request) -> Context:
    # Not `get_context` itself: FastAPI calls what is no coroutine in a thread.
    return get_context(request)


def get_session(context: Annotated[Context, Depends(_context)]) -> Iterator[Session]:
    with context.database.session() as session:
        yield session


async def get_reads(context: Annotated[Context, Depends(_context)]) -> AsyncIterator[Session]:
    # Neither its beginning nor its end waits for the ledger, so neither needs a thread.
    with context.database.reading() as session:
        yield session


async def in_transaction(context: Context, action: Callable[[Session], T]) -> T:
    """What `action` returns. It runs in one transaction, and in a thread because it blocks."""

    def run() -> T:
        with context.database.session() as session:
            return action(session)

    return await run_in_threadpool(run)


async def in_reads(context: Context, action: Callable[[Session], T]) -> T:
    """Like `in_transaction`, for what only reads: without a transaction."""

    def run() -> T:
        with context.database.reading() as session:
            return action(session)

    return await run_in_threadpool(run)


async def with_storage(context: Context, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `action` returns, which waits for storage: in a thread that is not one of those for other requests."""
    return await anyio.to_thread.run_sync(partial(action, *args, **kwargs), limiter=context.storage_threads)


InContext = Annotated[Context, Depends(_context)]
# The transaction ends before the answer is sent: what a caller is told has been committed.
InSession = Annotated[Session, Depends(get_session, scope="function")]
InReads = Annotated[Session, Depends(get_reads, scope="function")]
"""For endpoints that only read: without a transaction."""
