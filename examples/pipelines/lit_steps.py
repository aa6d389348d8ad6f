"""One compression in steps that may be repeated: for the DAG, the flow and the receiver beside this file.

A step that is called again after a crash does what is left of its work: the service has each file by its sha256 and
each job by its Idempotency-Key, and a complete file is not downloaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_client import Client
from lit_client.models import Job


class NoUsableStudent(Exception):
    """The job has finished without one: asking again changes nothing."""


class CompressionFailed(NoUsableStudent):
    """The job failed or was cancelled."""


class NotAccepted(NoUsableStudent):
    """The student is worse than the request's `accept` allows. It is downloaded, to look at."""


def submit(client: Client, teacher: Path, request: Mapping[str, Any], key: str) -> str:
    """Send the teacher and create a job; its id. `request` is the body of POST /v1/jobs without `teacher`.

    The same `key` (1 to 255 characters) with the same request gives the same job.
    """
    upload = client.wait_inspection(client.upload(teacher, "teacher").id)
    return client.create_job({**request, "teacher": upload.id}, idempotency_key=key).id


def is_finished(client: Client, job_id: str) -> bool:
    return client.job(job_id).finished


def fetch(client: Client, job_id: str, folder: Path) -> dict[str, Any]:
    """Download the student of a finished job into `folder`; what there is to say of it.

    Raises CompressionFailed and NotAccepted.
    """
    job = client.job(job_id)
    if job.state != "succeeded":
        raise CompressionFailed(f"{job.id} {job.state}: {job.error or 'somebody cancelled it'}")
    client.download(job.id, folder)
    if job.accepted is False:
        raise NotAccepted(f"The student of {job.id} is not accepted; it is in {folder}.")
    return summary(job)


def summary(job: Job) -> dict[str, Any]:
    """Accuracies in percent, and how many times fewer parameters the student has."""
    result = job.result or {}
    return {
        "job": job.id,
        "teacher_accuracy": result["teacher"]["accuracy"]["test"],
        "student_accuracy": result["student"]["accuracy"]["test"],
        "parameters_ratio": result["ratios"]["parameters"],
    }
