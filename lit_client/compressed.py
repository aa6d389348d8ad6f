"""What `Client.compress` takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lit_client.files import DownloadedFile, ProgressCallback
from lit_client.models import Job, Upload
from lit_client.progress import ProgressReport
from lit_spec import BUILTIN, JobRequest, LibraryRequest, SpecError, check_depth
from lit_spec.mistakes import as_text, mistakes
from lit_spec.requests.dataset import DATASET_SOURCES
from lit_spec.requests.store_urls import STORE_SCHEMES

PLACEHOLDER_ID = "upl_to_come"
"""Stands for the id of an upload that does not exist yet."""
UPLOAD_PREFIX = "upl_"


@dataclass(frozen=True)
class Compressed:
    """A job that has succeeded, and its student."""

    job: Job
    """`job.accepted` and `job.result` say how good the student is."""
    folder: Path
    files: list[DownloadedFile]
    student: Any
    """A `lit_core.Model` in eval mode, on the CPU; None if torch is not installed, and for a plan."""


@dataclass(frozen=True)
class InMemory:
    """A model or data that is still to be written as a file."""

    value: Any


Source = str | Path | InMemory
"""An upload's id, a file or a folder, or what is in memory."""


def source_of(given: Any) -> Source:
    """Raises ValueError for the name of a file that does not exist."""
    if isinstance(given, Upload):
        return given.id
    if not isinstance(given, str | Path):
        return InMemory(given)
    path = Path(given)
    if path.exists():
        return path
    if str(given).startswith(UPLOAD_PREFIX):
        return str(given)
    raise ValueError(f"{given} is not a file: give a file, a folder, or the id of an upload ({UPLOAD_PREFIX}…)")


def is_store_url(given: object) -> bool:
    """Whether it names data in an object store, as s3://bucket/key."""
    return isinstance(given, str) and given.startswith(tuple(f"{scheme}://" for scheme in STORE_SCHEMES))


def dataset_fields(fields: Mapping[str, Any], data: Any) -> tuple[dict[str, Any], Source | None]:
    """The request's `dataset`, and what is to be uploaded for it, if anything is. Raises ValueError."""
    if isinstance(data, str) and data in BUILTIN:
        return {**fields, "builtin": data}, None
    if is_store_url(data):
        return {**fields, "url": data}, None
    if isinstance(data, Mapping) and set(data) & set(DATASET_SOURCES):
        return {**fields, **data}, None
    return {**fields, "upload": PLACEHOLDER_ID}, source_of(data)


def architecture_object(architecture: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`torchvision/resnet50`, or the whole object. Raises ValueError."""
    if architecture is None:
        return None
    if isinstance(architecture, str):
        library, _, name = architecture.partition("/")
        architecture = {"library": library, "name": name}
    given = dict(architecture)
    try:
        LibraryRequest.model_validate(given)
    except ValidationError as failure:
        found = as_text(mistakes(LibraryRequest, given, failure))
        raise ValueError(f"architecture: {found} (give it as torchvision/resnet50)") from failure
    return given


def check_request(body: Mapping[str, Any]) -> None:
    """Check a request before anything is sent. Raises ValueError that names each wrong field."""
    try:
        request = JobRequest.model_validate(dict(body))
        check_depth(request.student, request.method)
    except ValidationError as failure:
        raise ValueError(as_text(mistakes(JobRequest, dict(body), failure))) from failure
    except SpecError as failure:
        raise ValueError(f"{failure.field}: {failure.message}") from failure


def bytes_report(what: str, report: ProgressReport) -> ProgressCallback:
    """Tells of a transfer's bytes as a fraction."""
    told: Callable[[int, int], None] = lambda done, total: report(what, done / total if total else None)  # noqa: E731
    return told
