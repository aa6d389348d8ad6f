"""Calls about studies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, overload

from lit_client.addresses import path_to
from lit_client.answers import parse
from lit_client.asynchronous.calls import NOT_MODIFIED, AsyncCalls, long_polls
from lit_client.models import Page, Study, StudyTable
from lit_spec.requests.study import StudyRequest


class AsyncStudyCalls(AsyncCalls):
    """Studies and their tables."""

    async def create_study(
        self, request: StudyRequest | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Study:
        """Create a study; the key works as in `create_job`."""
        body = request.model_dump(mode="json", exclude_unset=True) if isinstance(request, StudyRequest) else request
        return parse(Study, await self._post("/v1/studies", body, idempotency_key))

    @overload
    async def study(self, study_id: str, *, wait: float | None = None) -> Study: ...
    @overload
    async def study(self, study_id: str, *, wait: float | None = None, etag: str) -> Study | None: ...

    async def study(self, study_id: str, *, wait: float | None = None, etag: str | None = None) -> Study | None:
        """One study with its table so far. `wait` and `etag` work as in `job`."""
        headers = {"If-None-Match": etag} if etag else {}
        response = await self._get(path_to("studies", study_id), wait=wait, headers=headers, accept={NOT_MODIFIED})
        if response.status_code == NOT_MODIFIED:
            return None
        study = parse(Study, response)
        study.etag = response.headers.get("ETag")
        return study

    def studies(
        self, *, state: str | None = None, tag: str | None = None, name: str | None = None, limit: int | None = None
    ) -> AsyncIterator[Study]:
        """The owner's studies without their tables, newest first, fetched page by page as they are read."""
        filters = {key: value for key, value in (("state", state), ("tag", tag), ("name", name)) if value is not None}
        return self._paged(Page[Study], "/v1/studies", filters, limit)

    async def follow_study(self, study_id: str) -> AsyncIterator[Study]:
        """The study now and after each change, until it has finished. Continues after a restart of the service."""
        study = await self.study(study_id)
        yield study
        async for wait in long_polls(None, study_id):
            if study.finished:
                return
            changed = await self.study(study_id, wait=wait, etag=study.etag or "")
            if changed is not None:
                study = changed
                yield study

    async def wait_study(self, study_id: str, *, timeout: float | None = None) -> Study:
        """Wait until a study has finished. Raises WaitTimeout after `timeout` seconds."""
        async for wait in long_polls(timeout, study_id):
            study = await self.study(study_id, wait=wait)
            if study.finished:
                return study
        raise AssertionError("long polls end with an exception")

    async def cancel_study(self, study_id: str) -> Study:
        """Cancel a study. Raises ProblemError `study-finished` if it has succeeded or failed."""
        return parse(
            Study, await self._connection.request("POST", path_to("studies", study_id, "cancel"), repeatable=True)
        )

    async def resume_study(self, study_id: str) -> Study:
        """Continue a finished study: trials that failed or were cancelled are run again.

        Raises ProblemError `study-not-finished`, or `study-finished` if there is no trial to run again.
        """
        return parse(
            Study, await self._connection.request("POST", path_to("studies", study_id, "resume"), repeatable=False)
        )

    async def delete_study(self, study_id: str) -> None:
        """Remove a finished study with its jobs. Raises ProblemError `study-not-finished` if it has not finished."""
        await self._connection.request("DELETE", path_to("studies", study_id), repeatable=True)

    async def study_table(self, study_id: str) -> StudyTable:
        """The table so far."""
        return parse(StudyTable, await self._get(path_to("studies", study_id, "table")))

    async def study_csv(self, study_id: str) -> str:
        """The table so far as CSV, with a header line."""
        return (await self._get(path_to("studies", study_id, "table"), params={"format": "csv"})).text
