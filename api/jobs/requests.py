"""From a parsed request to a job: wait for the inspections that it needs, then create the job in the ledger."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from api.http.context import Context, in_transaction, with_storage
from api.http.problems import Problem
from api.uploads.stored_bytes import is_stored, read_upload
from jobs.broker.queues import queues_for
from jobs.database.models import Job
from jobs.errors import NotFound, RequestRefused, Stale
from jobs.ledger import creation, requests
from jobs.ledger.creation import Action, NewJob
from jobs.ledger.idempotency import IdempotentRequest, find_job, is_key_known
from jobs.ledger.inspected_uploads import KnownUploads
from lit_spec import JobRequest

INSPECTION_SECONDS = 30.0
"""How long a request for a job waits for the inspections of its uploads."""


async def make_job(
    context: Context,
    owner: str,
    repeated: IdempotentRequest | None,
    prepare: Callable[[], Awaitable[JobRequest]],
    action: Action,
) -> tuple[Job, list[str]]:
    """The new job, or the one that the same request made earlier; and the queues to send wake-ups to.

    `prepare` gives the request of a new job. What it needs may be gone when the request is sent again.
    `action`: for the audit log. Raises Problem, RequestRefused and QuotaExceeded.
    """
    if repeated is not None and await run_in_threadpool(is_key_known, context.database, owner, repeated):
        earlier = await in_transaction(context, lambda session: find_job(session, owner, repeated))
        if earlier is not None:
            return earlier, []
    request = await prepare()
    context.trackers.check(request)
    check_dataset_url(context, request)
    making = _Making(context, owner, request, repeated, action)
    job = await with_storage(context, making.at_once)
    if job is None:
        inspections = await inspections_of(context, owner, request)
        job = await run_in_threadpool(making.with_inspections, inspections)
    return job, queues_for(job.device)


@dataclass(frozen=True)
class _Making:
    """Makes one job. Its methods block."""

    context: Context
    owner: str
    request: JobRequest
    repeated: IdempotentRequest | None
    action: Action

    def at_once(self) -> Job | None:
        """The job; None: an upload has to be inspected or recovered first. Raises RequestRefused and QuotaExceeded."""
        context, known_uploads = self.context, self.context.inspected_uploads
        while (known := known_uploads.find(self.owner, self.request)) is not None:
            if not all(is_stored(context.storage, row) for row in known.rows):
                return None
            made = self._try(known)
            if made is not None:
                return made
            known_uploads.forget(known)
            if known.fresh:
                return None
        return None

    def _try(self, known: KnownUploads) -> Job | None:
        """None: the uploads may not be those of the ledger."""
        database, quotas = self.context.database, self.context.settings.quotas
        try:
            spec = requests.specify(self.request, known.inspections)
        except RequestRefused:
            if known.fresh:
                raise
            return None
        new = NewJob(self.owner, self.request, spec, known.stamps, self.repeated, self.action)
        made = creation.create_at_once(database, new, quotas)
        if isinstance(made, Job):
            return made
        try:
            with database.session() as session:
                return creation.create(session, new, quotas)
        except (NotFound, Stale):
            return None

    def with_inspections(self, inspections: requests.Inspections) -> Job:
        """The job, or the one that the same request made meanwhile."""
        with self.context.database.session() as session:
            quotas = self.context.settings.quotas
            return requests.create_job(
                session, self.owner, self.request, inspections, self.repeated, quotas, self.action
            )


async def inspections_of(context: Context, owner: str, request: JobRequest) -> requests.Inspections:
    """The inspections of the uploads that the request names; waits for them. Raises Problem and RequestRefused."""
    end = time.monotonic() + INSPECTION_SECONDS
    await with_storage(context, _recover_uploads, context, owner, request)
    await in_transaction(context, lambda session: requests.request_inspection(session, owner, request))
    found = {
        field: await _wait_for_inspection(context, owner, request, field, upload.id, end)
        for field, upload in requests.named_uploads(request).items()
    }
    return requests.Inspections.of(found)


def check_dataset_url(context: Context, request: JobRequest) -> None:
    """Raises RequestRefused for a data set in a store that the operator does not allow."""
    url, allowed = request.dataset.url, context.settings.dataset_prefixes
    if url is not None and not url.startswith(allowed):
        stores = f"only from {', '.join(allowed)}" if allowed else "from none (LIT_DATASET_STORES is not set)"
        message = f"this service reads data sets by URL {stores}: name one there, or upload the file"
        raise RequestRefused.invalid_field("dataset.url", message)


def _recover_uploads(context: Context, owner: str, request: JobRequest) -> None:
    """Let the ledger know which files are lost. An upload that begins again is refused like any that is unfinished."""
    for upload_id in requests.upload_ids(request):
        # One that doesn't exist is refused later, with its field.
        with suppress(NotFound):
            read_upload(context, owner, upload_id)


async def _wait_for_inspection(
    context: Context, owner: str, request: JobRequest, field: str, upload_id: str, end: float
) -> requests.Found:
    """The inspection of one upload. Raises Problem 503 if it is not done at `end`, a time of `time.monotonic`."""

    def read() -> requests.Found | None:
        with context.database.reading() as session:
            return requests.find_inspection(session, owner, request, field)

    def look() -> Awaitable[requests.Found | None]:
        return run_in_threadpool(read)

    found = await context.long_polls.until(upload_id, end - time.monotonic(), look, lambda found: found is not None)
    if found is None:
        detail = (
            f"the upload {upload_id} ({field}) has not been inspected yet: make sure that a worker is running "
            "(`litc worker`), and try again"
        )
        raise Problem(503, "inspection-pending", detail, headers={"Retry-After": "5"})
    return found
