"""The requests for webhooks."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue

from lit_spec.base import NameText, OpenEnum, SpecModel
from lit_spec.requests.job import Tag


class WebhookEvent(OpenEnum):
    """What a webhook may be told: a job, study or upload has reached a state."""

    JOB_QUEUED = "job.queued"
    JOB_RUNNING = "job.running"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    STUDY_RUNNING = "study.running"
    STUDY_SUCCEEDED = "study.succeeded"
    STUDY_FAILED = "study.failed"
    STUDY_CANCELLED = "study.cancelled"
    UPLOAD_INSPECTED = "upload.inspected"


Url = Annotated[str, Field(min_length=1, max_length=2048)]
Name = Annotated[NameText, Field(min_length=1, max_length=200)]
Events = Annotated[list[WebhookEvent], Field(min_length=1, max_length=len(WebhookEvent))]
Tags = Annotated[list[Tag], Field(max_length=32)]

_EXAMPLE: dict[str, JsonValue] = {
    "url": "https://hooks.example.com/lit",
    "name": "ci",
    "events": ["job.succeeded", "job.failed"],
    "tags": ["nightly"],
}


class WebhookRequest(SpecModel):
    """The body of `POST /v1/webhooks`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    url: Url
    """Where events are posted to. https, at a public address; the operator can allow other networks, and http there."""
    name: Name | None = None
    """A name for people."""
    events: Events | None = None
    """What to tell. None: everything, also what later versions of LIT add."""
    tags: Tags = Field(default_factory=list)
    """Only jobs and studies with at least one of these tags. Empty: all jobs, studies and uploads."""
    enabled: bool = True
    """false: it is told nothing yet."""


class WebhookChange(SpecModel):
    """The body of `PATCH /v1/webhooks/{id}`. Fields that are left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": True}, {"events": None, "tags": []}]})

    url: Url | None = None
    """A new address. null changes nothing."""
    name: Name | None = None
    """null removes it."""
    events: Events | None = None
    """null: all events."""
    tags: Tags | None = None
    """null or an empty list: no filter."""
    enabled: bool | None = None
    """false: nothing is recorded or sent, and what waits is kept. true: what waits is sent at once."""
