"""Files on this machine: their hash, and what a download makes of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from lit_client.errors import LitError, TransferError
from lit_client.models import Artifact, Job
from lit_spec.trainer.folder import BUNDLE_FILE

ProgressCallback = Callable[[int, int], None]
"""Called with two numbers: the bytes done, and all bytes."""


@dataclass(frozen=True)
class DownloadedFile:
    """A file of a job on this machine, verified."""

    path: Path
    size: int
    sha256: str


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_name(name: str) -> str:
    """Check that the name is a plain file name, because a service must not choose where files are written."""
    if not name or name.startswith(".") or any(c in "/\\:\0" for c in name):
        raise TransferError(f"The service names a file {name!r}, which is not a plain file name.")
    return name


def is_complete(path: Path, artifact: Artifact) -> bool:
    """Whether the file has the size and the sha256 of the service's list."""
    return path.is_file() and path.stat().st_size == artifact.size and file_sha256(path) == artifact.sha256


def publish(part: Path, target: Path) -> None:
    """Rename so that a crash leaves either nothing or the whole file under its name."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)


def ignore_progress(_done: int, _total: int) -> None:
    """The progress callback of callers that give none."""


def without_copies(artifacts: list[Artifact], job: Job) -> list[str]:
    """The names of the single files, and of the bundle only if one of the job's formats lies in it alone."""
    exports = (job.result or {}).get("exports") or []
    only_in_bundle = any(row.get("file") == BUNDLE_FILE and not row.get("error") for row in exports)
    return [artifact.name for artifact in artifacts if artifact.name != BUNDLE_FILE or only_in_bundle]


def choose(artifacts: list[Artifact], names: Collection[str] | None, job_id: str) -> list[Artifact]:
    """The artifacts with these names, or all. Raises LitError."""
    if not artifacts:
        raise LitError(f"{job_id} has no files: only a job that has succeeded has any.")
    if names is None:
        return artifacts
    missing = sorted(set(names) - {artifact.name for artifact in artifacts})
    if missing:
        there = ", ".join(artifact.name for artifact in artifacts)
        raise LitError(f"{job_id} has no {', '.join(missing)}; it has {there}.")
    return [artifact for artifact in artifacts if artifact.name in names]
