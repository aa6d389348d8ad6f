"""`Client`: everything that the service offers, as typed methods.

```
with Client() as client:
    teacher = client.upload("teacher.safetensors", "teacher")
    job = client.create_job({"teacher": teacher.id, "dataset": {"builtin": "digits"}, "student": {"depth": 14}})
    job = client.wait_job(job.id)
    client.download(job.id, "student/")
```
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import httpx

from lit_client.connection import Connection, fits_a_header, parse, path_to
from lit_client.downloads import DownloadedFile, fetch_file
from lit_client.errors import InspectedOtherwise, LitError, WaitTimeout
from lit_client.folders import as_file
from lit_client.models import (
    ArchitectureItem,
    Artifact,
    ArtifactPage,
    Event,
    EventPage,
    Job,
    JobError,
    LibraryArchitecture,
    Metric,
    MetricPage,
    Page,
    Study,
    StudyTable,
    Upload,
    UploadKind,
)
from lit_client.uploads import CHUNK_BYTES, ProgressCallback, name_architecture, name_weights, send_file
from lit_spec import JobRequest, LibraryRequest, TeacherWeights
from lit_spec.answers.pages import ItemT
from lit_spec.requests.study import StudyRequest

LONGEST_WAIT = 30
"""Seconds that the service holds an answer."""
LONG_POLL_SECONDS = float(LONGEST_WAIT)
PAGE_ITEMS = 100
# The least time between two long polls, in case a service answers them at once.
SHORTEST_POLL_SECONDS = 0.2
NOT_MODIFIED = 304
UPLOAD_WORDS = {UploadKind.TEACHER: "teacher", UploadKind.DATASET: "data set"}


class InspectionFailed(LitError):
    """The service can't use an uploaded file as what it was sent for, a teacher or a data set; `failure` says why."""

    def __init__(self, upload: Upload, failure: JobError) -> None:
        what = UPLOAD_WORDS.get(upload.kind, upload.kind)
        super().__init__(f"{upload.filename} can't be used as a {what}: {failure.detail}")
        self.upload = upload
        self.failure = failure
        self.fields = [] if failure.field is None else [failure.field]


class Client:
    """A synchronous client of one service. Don't share one between threads.

    `base_url` and `api_key` default to the environment's LIT_URL and LIT_API_KEY. Requests that are safe to
    repeat are repeated `retries` times with growing pauses from `first_pause` seconds on. `timeout` is how long
    the service may take to answer, in seconds. `transport` replaces httpx's own, as in `httpx.Client`. Every method
    raises a LitError when it fails.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = 8,
        timeout: float = 60.0,
        first_pause: float = 0.25,
        chunk_bytes: int = CHUNK_BYTES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection(
            base_url, api_key, retries=retries, timeout=timeout, first_pause=first_pause, transport=transport
        )
        self._chunk_bytes = chunk_bytes

    @property
    def base_url(self) -> str:
        return self._connection.base_url

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- uploads ---------------------------------------------------------------------------------------

    def upload(
        self,
        path: str | Path,
        kind: UploadKind | str,
        progress: ProgressCallback | None = None,
        architecture: Mapping[str, Any] | None = None,
        teacher_weights: TeacherWeights | str | None = None,
    ) -> Upload:
        """Send a teacher or a data set. Continues an upload that an earlier call began, and never sends a file twice.

        A folder is packed first, if it is a data set; as a teacher it is a student that was downloaded.
        `architecture` says which network of torchvision or timm a teacher is, as in `inspect_as`, and
        `teacher_weights` which of its weights to take, as in `inspect_with`. Raises UnusableFolder, which is a
        ValueError.
        """
        with as_file(Path(path), UploadKind(kind)) as file:
            return send_file(
                self._connection,
                file,
                UploadKind(kind),
                progress,
                architecture,
                None if teacher_weights is None else TeacherWeights(teacher_weights),
                chunk_bytes=self._chunk_bytes,
            )

    def get_upload(self, upload_id: str, *, wait: float | None = None) -> Upload:
        """One upload; `wait` lets the service hold the answer until the inspection has finished, in seconds."""
        return parse(Upload, self._get(path_to("uploads", upload_id), wait=wait))

    def uploads(self, *, limit: int | None = None) -> Iterator[Upload]:
        """The owner's uploads."""
        return self._paged(Page[Upload], "/v1/uploads", {}, limit)

    def delete_upload(self, upload_id: str) -> None:
        """Remove an upload. Raises ProblemError `upload-in-use` while a job needs it."""
        self._connection.request("DELETE", path_to("uploads", upload_id), repeatable=True)

    def architectures(
        self, *, library: str | None = None, search: str | None = None, limit: int | None = None
    ) -> Iterator[ArchitectureItem]:
        """The networks of torchvision and timm, by library and name."""
        filters = {key: value for key, value in (("library", library), ("search", search)) if value is not None}
        return self._paged(Page[ArchitectureItem], "/v1/architectures", filters, limit)

    def architecture(self, library: str, name: str) -> LibraryArchitecture:
        """A network's sections, and what each depth would save. Raises ProblemError `not-found`."""
        return parse(LibraryArchitecture, self._get(path_to("architectures", library, name)))

    def inspect_as(self, upload_id: str, architecture: Mapping[str, Any] | None) -> Upload:
        """Say which network of torchvision or timm a teacher is: {"library": …, "name": …, "kwargs": {…}}.

        The teacher is inspected again, as that network. None removes the architecture.
        """
        return name_architecture(self._connection, upload_id, architecture)

    def inspect_with(self, upload_id: str, teacher_weights: TeacherWeights | str | None) -> Upload:
        """Say which weights to take of a teacher's checkpoint that has raw and averaged ones: "raw" or "ema".

        The teacher is inspected again, with these. None: the raw ones, or the averaged ones where there are no others.
        """
        weights = None if teacher_weights is None else TeacherWeights(teacher_weights)
        return name_weights(self._connection, upload_id, weights)

    def wait_inspection(
        self,
        upload_id: str,
        *,
        architecture: Mapping[str, Any] | None = None,
        teacher_weights: TeacherWeights | str | None = None,
        timeout: float | None = None,
    ) -> Upload:
        """Wait until the service has inspected an upload; a teacher as `architecture`, with `teacher_weights`, if set.

        Raises InspectionFailed when the upload can't be used, InspectedOtherwise when another request has changed
        its architecture or weights, WaitTimeout after `timeout` seconds.
        """
        wanted = None if architecture is None else LibraryRequest.model_validate(architecture)
        for wait in _long_polls(timeout, f"The inspection of {upload_id}"):
            upload = self.get_upload(upload_id, wait=wait)
            if wanted is not None and upload.architecture != wanted:
                raise InspectedOtherwise(upload.id, "architecture")
            if teacher_weights is not None and upload.teacher_weights != teacher_weights:
                raise InspectedOtherwise(upload.id, "teacher_weights")
            if upload.inspection_error is not None:
                raise InspectionFailed(upload, upload.inspection_error)
            if not upload.inspecting:
                return upload
        raise AssertionError("long polls end with an exception")

    # --- jobs ------------------------------------------------------------------------------------------

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
        for wait in _long_polls(timeout, job_id):
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

    # --- what a job tells --------------------------------------------------------------------------------

    def events(self, job_id: str, *, after: int = 0, wait: float | None = None, limit: int | None = None) -> EventPage:
        """Events after a number; `wait` (seconds) lets the service hold the answer until there is one."""
        params: dict[str, Any] = {"after": after} | ({} if limit is None else {"limit": limit})
        return parse(EventPage, self._get(path_to("jobs", job_id, "events"), wait=wait, params=params))

    def follow(self, job_id: str, *, after: int = 0, on_job: Callable[[Job], None] | None = None) -> Iterator[Event]:
        """Every event after a number, as it happens, until the job has finished, also after a restart of the service.

        `on_job` is called with the job before each request for events; it says why a queued job waits.
        """
        for _ in _long_polls(None, job_id):
            # Before the events, so that a finished job's last events are among them.
            job = self.job(job_id)
            if on_job is not None:
                on_job(job)
            page = self.events(job_id, after=after, wait=None if job.finished else LONG_POLL_SECONDS)
            yield from page.items
            if page.items:
                after = page.items[-1].seq
            elif job.finished:
                return

    def metrics(self, job_id: str, *, phase: str | None = None, name: str | None = None) -> list[Metric]:
        """A job's numbers per phase and epoch."""
        params = {key: value for key, value in (("phase", phase), ("name", name)) if value is not None}
        return parse(MetricPage, self._get(path_to("jobs", job_id, "metrics"), params=params)).items

    def log(self, job_id: str, attempt: int | None = None) -> str:
        """What the trainer wrote in the newest attempt, or in the attempt with this number (from 1), as text."""
        return self._get(path_to("jobs", job_id, "log"), params={} if attempt is None else {"attempt": attempt}).text

    def artifacts(self, job_id: str) -> list[Artifact]:
        """The files that a job left, with their sha256."""
        return parse(ArtifactPage, self._get(path_to("jobs", job_id, "artifacts"))).items

    def download(
        self,
        job_id: str,
        folder: str | Path,
        names: Collection[str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> list[DownloadedFile]:
        """Download a job's files (all, or those in `names`) into a folder, which is created if it does not exist.

        Continues where an earlier call stopped. A file gets its name only when it is complete and verified.
        `progress` gets the bytes of all files together. Raises ChecksumError, TransferError, and LitError for a job
        without files: only a job that has succeeded has any.
        """
        chosen = _choose(self.artifacts(job_id), names, job_id)
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

    # --- studies -----------------------------------------------------------------------------------------

    def create_study(self, request: StudyRequest | Mapping[str, Any], *, idempotency_key: str | None = None) -> Study:
        """Create a study; the key works as in `create_job`."""
        body = request.model_dump(mode="json", exclude_unset=True) if isinstance(request, StudyRequest) else request
        return parse(Study, self._post("/v1/studies", body, idempotency_key))

    @overload
    def study(self, study_id: str, *, wait: float | None = None) -> Study: ...
    @overload
    def study(self, study_id: str, *, wait: float | None = None, etag: str) -> Study | None: ...

    def study(self, study_id: str, *, wait: float | None = None, etag: str | None = None) -> Study | None:
        """One study with its table so far. `wait` and `etag` work as in `job`."""
        headers = {"If-None-Match": etag} if etag else {}
        response = self._get(path_to("studies", study_id), wait=wait, headers=headers, accept={NOT_MODIFIED})
        if response.status_code == NOT_MODIFIED:
            return None
        study = parse(Study, response)
        study.etag = response.headers.get("ETag")
        return study

    def studies(
        self, *, state: str | None = None, tag: str | None = None, name: str | None = None, limit: int | None = None
    ) -> Iterator[Study]:
        """The owner's studies without their tables, newest first, fetched page by page as they are read."""
        filters = {key: value for key, value in (("state", state), ("tag", tag), ("name", name)) if value is not None}
        return self._paged(Page[Study], "/v1/studies", filters, limit)

    def follow_study(self, study_id: str) -> Iterator[Study]:
        """The study now and after each change, until it has finished. Continues after a restart of the service."""
        study = self.study(study_id)
        yield study
        for wait in _long_polls(None, study_id):
            if study.finished:
                return
            changed = self.study(study_id, wait=wait, etag=study.etag or "")
            if changed is not None:
                study = changed
                yield study

    def wait_study(self, study_id: str, *, timeout: float | None = None) -> Study:
        """Wait until a study has finished. Raises WaitTimeout after `timeout` seconds."""
        for wait in _long_polls(timeout, study_id):
            study = self.study(study_id, wait=wait)
            if study.finished:
                return study
        raise AssertionError("long polls end with an exception")

    def cancel_study(self, study_id: str) -> Study:
        """Cancel a study. Raises ProblemError `study-finished` if it has succeeded or failed."""
        return parse(Study, self._connection.request("POST", path_to("studies", study_id, "cancel"), repeatable=True))

    def resume_study(self, study_id: str) -> Study:
        """Continue a finished study: trials that failed or were cancelled are run again.

        Raises ProblemError `study-not-finished`, or `study-finished` if there is no trial to run again.
        """
        return parse(Study, self._connection.request("POST", path_to("studies", study_id, "resume"), repeatable=False))

    def delete_study(self, study_id: str) -> None:
        """Remove a finished study with its jobs. Raises ProblemError `study-not-finished` if it has not finished."""
        self._connection.request("DELETE", path_to("studies", study_id), repeatable=True)

    def study_table(self, study_id: str) -> StudyTable:
        """The table so far."""
        return parse(StudyTable, self._get(path_to("studies", study_id, "table")))

    def study_csv(self, study_id: str) -> str:
        """The table so far as CSV, with a header line."""
        return self._get(path_to("studies", study_id, "table"), params={"format": "csv"}).text

    # --- requests ----------------------------------------------------------------------------------------

    def _paged(
        self, model: type[Page[ItemT]], path: str, filters: Mapping[str, Any], limit: int | None
    ) -> Iterator[ItemT]:
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            params = {**filters, "limit": PAGE_ITEMS if left is None else min(PAGE_ITEMS, left)}
            page = parse(model, self._get(path, params=params | ({"cursor": cursor} if cursor else {})))
            yield from page.items
            left = None if left is None else left - len(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _get(self, path: str, *, wait: float | None = None, **options: Any) -> httpx.Response:
        seconds = _whole_seconds(wait or 0.0)
        if seconds:
            options["params"] = {**options.get("params", {}), "wait": seconds}
        return self._connection.request("GET", path, repeatable=True, wait=seconds, **options)

    def _post_job(self, path: str, body: Mapping[str, Any], key: str | None) -> Job:
        return parse(Job, self._post(path, body, key))

    def _post(self, path: str, body: Mapping[str, Any], key: str | None) -> httpx.Response:
        if key is not None and not (key and fits_a_header(key)):
            raise ValueError(f"idempotency_key is {key!r}: give 1 to 255 printable ASCII characters, or none")
        headers = {"Idempotency-Key": str(uuid.uuid4()) if key is None else key}
        # The service itself may wait for a teacher's inspection before it answers.
        return self._connection.request(
            "POST", path, repeatable=True, wait=LONG_POLL_SECONDS, json=dict(body), headers=headers
        )


def _whole_seconds(wait: float) -> int:
    """Whole seconds, as the service accepts them, and at most LONGEST_WAIT; a short wait is 1 s."""
    return min(max(1, round(wait)), LONGEST_WAIT) if wait > 0 else 0


def _choose(artifacts: list[Artifact], names: Collection[str] | None, job_id: str) -> list[Artifact]:
    if not artifacts:
        raise LitError(f"{job_id} has no files: only a job that has succeeded has any.")
    if names is None:
        return artifacts
    missing = sorted(set(names) - {artifact.name for artifact in artifacts})
    if missing:
        there = ", ".join(artifact.name for artifact in artifacts)
        raise LitError(f"{job_id} has no {', '.join(missing)}; it has {there}.")
    return [artifact for artifact in artifacts if artifact.name in names]


def _long_polls(timeout: float | None, what: str) -> Iterator[float]:
    """For each long poll, how many seconds the service may wait. Raises WaitTimeout when the time is up."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if end is not None and began >= end:
            raise WaitTimeout(f"{what} has not finished within {timeout:g} s.")
        yield LONG_POLL_SECONDS if end is None else min(LONG_POLL_SECONDS, end - began)
        time.sleep(max(0.0, SHORTEST_POLL_SECONDS - (time.monotonic() - began)))
