"""Calls about jobs, and what a job tells."""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, overload

import httpx

from lit_client.addresses import path_to
from lit_client.answers import parse
from lit_client.errors import ProblemError, StreamUnavailable
from lit_client.files import DownloadedFile, ProgressCallback, choose, without_copies
from lit_client.models import Artifact, ArtifactPage, Event, EventPage, Job, JobLive, Metric, MetricPage, Page
from lit_client.synchronous.calls import NOT_MODIFIED, Calls, long_polls
from lit_client.synchronous.downloads import fetch_file
from lit_client.synchronous.events import stream_events, stream_once
from lit_spec import JobRequest
from lit_spec.states import JobState
from lit_spec.trainer.folder import BUNDLE_FILE

LOG_SECONDS = 2.0
"""How often a worker stores a running trainer's log."""


class JobCalls(Calls):
    """Jobs with their events, metrics, logs and files."""

    def create_job(self, request: JobRequest | Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Create a job.

        A request with the same key returns the job that the first request created. Without a key the client makes one
        up, so that a retry after a lost answer never creates a second job. Raises ValueError for a key that no header
        can have.
        """
        # Only what was set, because the service's defaults may be newer than this client's.
        body = request.model_dump(mode="json", exclude_unset=True) if isinstance(request, JobRequest) else request
        return self._post_job("/v1/jobs", body, idempotency_key)

    def rerun(
        self, job_id: str, changes: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> Job:
        """Run a job's request again as a new job; `changes` are merged into it (RFC 7396: null removes)."""
        return self._post_job(path_to("jobs", job_id, "rerun"), changes or {}, idempotency_key)

    @overload
    def job(self, job_id: str, *, wait: float | None = None) -> Job: ...
    @overload
    def job(self, job_id: str, *, wait: float | None = None, etag: str) -> Job | None: ...

    def job(self, job_id: str, *, wait: float | None = None, etag: str | None = None) -> Job | None:
        """One job. If you give an `etag`: None if the job has not changed since the answer with this ETag.

        `wait` (seconds) lets the service hold the answer until the job has changed (with `etag`) or finished.
        """
        headers = {"If-None-Match": etag} if etag else {}
        response = self._get(path_to("jobs", job_id), wait=wait, headers=headers, accept={NOT_MODIFIED})
        if response.status_code == NOT_MODIFIED:
            return None
        job = parse(Job, response)
        job.etag = response.headers.get("ETag")
        return job

    def jobs(
        self,
        *,
        state: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        study: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """The owner's jobs (or a study's trials), newest first, fetched page by page as they are read."""
        given = (("state", state), ("tag", tag), ("name", name), ("study", study))
        filters = {key: value for key, value in given if value is not None}
        return self._paged(Page[Job], "/v1/jobs", filters, limit)

    def wait_job(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Wait until a job has finished. Raises WaitTimeout after `timeout` seconds."""
        for wait in long_polls(timeout, job_id):
            job = self.job(job_id, wait=wait)
            if job.finished:
                return job
        raise AssertionError("long polls end with an exception")

    def cancel(self, job_id: str) -> Job:
        """Cancel a job. Raises ProblemError `job-finished` if it has succeeded or failed."""
        return parse(Job, self._connection.request("POST", path_to("jobs", job_id, "cancel"), repeatable=True))

    def keep(self, job_id: str) -> Job:
        """Keep a job's files for good. Raises ProblemError `artifact-removed` if they are gone."""
        return parse(Job, self._connection.request("POST", path_to("jobs", job_id, "keep"), repeatable=True))

    def unkeep(self, job_id: str) -> Job:
        """Let a job's files be removed when their time has come. Raises ProblemError `artifact-removed`."""
        return parse(Job, self._connection.request("DELETE", path_to("jobs", job_id, "keep"), repeatable=True))

    def delete_job(self, job_id: str) -> None:
        """Remove a finished job and its files. Raises ProblemError `job-not-finished` if it has not finished."""
        self._connection.request("DELETE", path_to("jobs", job_id), repeatable=True)

    def events(self, job_id: str, *, after: int = 0, wait: float | None = None, limit: int | None = None) -> EventPage:
        """Events after a number; `wait` (seconds) lets the service hold the answer until there is one."""
        params: dict[str, Any] = {"after": after} | ({} if limit is None else {"limit": limit})
        return parse(EventPage, self._get(path_to("jobs", job_id, "events"), wait=wait, params=params))

    def follow(
        self, job_id: str, *, after: int = 0, on_job: Callable[[Job], None] | None = None, every: float | None = None
    ) -> Iterator[Event]:
        """Every event after a number, as it happens, until the job has finished, also after a restart of the service.

        `on_job` is called with the job whenever its state, progress or estimated end has changed, at most once a
        second, and while it is queued with why it waits, every `every` or 30 seconds. A service that sends no streams
        is asked again and again; then a running job is looked at as often as a queued one.
        """
        streams = True
        for longest in long_polls(None, job_id):
            # Before the events, so that a finished job's last events are among them.
            job = self.job(job_id)
            if on_job is not None:
                on_job(job)
            # A stream does not say why a queued job waits.
            if streams and (on_job is None or job.state != JobState.QUEUED):
                try:
                    with closing(self._streamed_events(job, after, on_job)) as events:
                        for event in events:
                            if event is None:
                                return
                            after = event.seq
                            yield event
                except (StreamUnavailable, httpx.ReadTimeout):
                    # Something on the way may hold a stream back, although the service always has something to send.
                    streams = False
                except httpx.TransportError:
                    pass
                except ProblemError as problem:
                    if not problem.temporary:
                        raise
                continue
            wait = None if job.finished else min(longest, every or longest)
            page = self.events(job_id, after=after, wait=wait)
            for event in page.items:
                yield event
            if page.items:
                after = page.items[-1].seq
            elif job.finished:
                return

    def _streamed_events(
        self, job: Job, after: int, on_job: Callable[[Job], None] | None
    ) -> Generator[Event | None, None]:
        """Those of one connection; None at the end of the job. Ends too when `on_job` is to tell why the job waits."""
        with closing(stream_once(self._connection, job.id, after)) as stream:
            for told in stream:
                if told is None or isinstance(told, Event):
                    yield told
                elif on_job is not None:
                    job = self.job(job.id) if told.state.finished else _with_live(job, told)
                    on_job(job)
                    if job.state == JobState.QUEUED:
                        return

    def stream_events(self, job_id: str, *, after: int = 0) -> Iterator[Event | JobLive]:
        """Like `follow`, over one connection, with the job's state and progress between the events.

        A `JobLive` comes after the events that there are already, and then at most once a second when the state, the
        progress within an epoch or the estimate of the end has changed.
        """
        return stream_events(self._connection, job_id, after)

    def metrics(self, job_id: str, *, phase: str | None = None, name: str | None = None) -> list[Metric]:
        """A job's numbers per phase and epoch."""
        params = {key: value for key, value in (("phase", phase), ("name", name)) if value is not None}
        return parse(MetricPage, self._get(path_to("jobs", job_id, "metrics"), params=params)).items

    def log(self, job_id: str, attempt: int | None = None) -> str:
        """What the trainer wrote in the newest attempt, or in the attempt with this number (from 1), as text."""
        params = {} if attempt is None else {"attempt": attempt}
        return (self._get(path_to("jobs", job_id, "log"), params=params)).text

    def artifacts(self, job_id: str) -> list[Artifact]:
        """The files that a job left, with their sha256."""
        return parse(ArtifactPage, self._get(path_to("jobs", job_id, "artifacts"))).items

    def follow_log(self, job_id: str) -> Iterator[str]:
        """What the trainer writes, as it is stored (every few seconds), until the job has finished.

        A new attempt begins a new log.
        """
        attempt, shown, etag = 0, 0, ""
        for _ in long_polls(None, job_id):
            job = self.job(job_id, wait=LOG_SECONDS, etag=etag) if etag else self.job(job_id)
            finished = False
            if job is not None:
                etag, finished = job.etag or "", job.finished
                attempt, shown = job.attempt, shown if job.attempt == attempt else 0
            # After the job, so that a finished job's last lines are in it.
            text = self.log(job_id, attempt) if attempt else ""
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)
            if finished:
                return

    def download(
        self,
        job_id: str,
        folder: str | Path,
        names: Collection[str] | None = None,
        progress: ProgressCallback | None = None,
        *,
        bundle: bool = False,
    ) -> list[DownloadedFile]:
        """Download a job's files into a folder, which is created if it does not exist.

        The single files by default, without `bundle.zip`, which has all of them once more; it comes too where it has a
        format that is in no file of its own (`hugging_face`). With `bundle` only `bundle.zip`. `names`: only these.
        Continues where an earlier call stopped. A file gets its name only when it is complete and verified.
        `progress` gets the bytes of all files together. Raises ChecksumError, TransferError, and LitError for a job
        without files: only a job that has succeeded has any.
        """
        wanted = [BUNDLE_FILE] if bundle and names is None else names
        artifacts = self.artifacts(job_id)
        if wanted is None and any(artifact.name == BUNDLE_FILE for artifact in artifacts):
            wanted = without_copies(artifacts, self.job(job_id))
        chosen = choose(artifacts, wanted, job_id)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        total = sum(artifact.size for artifact in chosen)
        finished: list[DownloadedFile] = []

        def report(done: int, _of: int) -> None:
            if progress is not None:
                progress(sum(file.size for file in finished) + done, total)

        for artifact in chosen:
            finished.append(fetch_file(self._connection, job_id, artifact, folder, report))
        return finished


def _with_live(job: Job, live: JobLive) -> Job:
    """The job with what a stream has told of it."""
    told = {name: getattr(live, name) for name in ("state", "progress", "estimated_finish")}
    return job.model_copy(update={**told, "waiting": None})
