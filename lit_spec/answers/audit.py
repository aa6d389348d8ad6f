"""What the API answers about the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lit_spec.answers.base import Answer
from lit_spec.base import OpenEnum


class Outcome(OpenEnum):
    DONE = "done"
    DENIED = "denied"
    """The caller lacks the scope. Nothing has changed."""


class AuditEntry(Answer):
    """Something that a caller changed, or was not allowed to."""

    id: str
    """`aud_…`."""
    created_at: datetime
    """When it happened."""
    owner: str | None
    """Of the caller; null on the command line."""
    key_id: str | None
    """The key of the request; null without a key."""
    subject: str | None
    """`sub` of a bearer token; on the command line the user of the machine."""
    action: str
    """As in `job.create`."""
    kind: str
    """Of the object: `job`, `study`, `upload`, `key`, `quotas`, …"""
    object_id: str | None
    """The object's id; null if there is none."""
    outcome: Outcome
    """Whether it was done."""
    request_id: str | None
    """As in the answer's `X-Request-Id` and in the log."""
    address: str | None
    """The client's, as the service sees it."""
    detail: dict[str, Any] | None
    """What else is known of it."""
