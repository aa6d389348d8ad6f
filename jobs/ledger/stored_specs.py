"""Reads the specifications that are stored in rows, also those that an earlier version of LIT has stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from jobs.database.models import Job
from lit_spec import JobSpec
from lit_spec.base import READING_STORED
from lit_spec.requests.tracking import Track
from lit_spec.requests.upgrades import Stored, upgrade_job

MOST_FIELDS_IN_DETAIL = 3

ModelT = TypeVar("ModelT", bound=BaseModel)


class Unreadable(Exception):
    """This version of LIT can't read a stored specification. The message is a sentence without its end."""


def read_job_spec(job: Job) -> JobSpec:
    """Raises Unreadable."""
    return read_stored(JobSpec, upgrade_job, job.spec, job.spec_version)


def read_track(job: Job) -> Track | None:
    """The request's `track`. Raises Unreadable."""
    stored = job.request.get("track")
    try:
        return None if stored is None else Track.model_validate(stored, context=READING_STORED)
    except ValidationError as wrong:
        raise Unreadable(f"this version of LIT can't read the request's track ({_summary(wrong)})") from wrong


def read_stored(model: type[ModelT], upgrade: Callable[[Stored, int], Stored], stored: Stored, version: int) -> ModelT:
    """Raises Unreadable."""
    try:
        return model.model_validate(upgrade(stored, version), context=READING_STORED)
    except ValidationError as wrong:
        reason = _summary(wrong)
        raise Unreadable(_sentence(reason)) from wrong
    except (ValueError, LookupError, TypeError, AttributeError) as wrong:
        # A step of the upgrade may meet anything in a row that is damaged.
        raise Unreadable(_sentence(str(wrong))) from wrong


def _sentence(reason: str) -> str:
    return f"this version of LIT can't read the stored specification ({reason})"


def _summary(wrong: ValidationError) -> str:
    fields = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in wrong.errors(include_url=False)]
    return "; ".join(fields[:MOST_FIELDS_IN_DETAIL]) + ("; …" * (len(fields) > MOST_FIELDS_IN_DETAIL))
