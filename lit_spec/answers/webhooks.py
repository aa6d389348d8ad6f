"""What the API answers about webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, JsonValue

from lit_spec.answers.base import Answer
from lit_spec.requests.webhook import WebhookEvent
from lit_spec.states import DeliveryState

_WEBHOOK = "webhook_cfv5twts2wzbv6hdtf2mfvhcbz"
_EXAMPLE: dict[str, JsonValue] = {
    "id": _WEBHOOK,
    "url": "https://hooks.example.com/lit",
    "name": "ci",
    "events": ["job.succeeded", "job.failed"],
    "tags": ["nightly"],
    "enabled": True,
    "disabled": None,
    "failing_since": None,
    "previous_secret_until": None,
    "created_at": "2026-12-01T12:00:00Z",
    "links": {"self": f"/v1/webhooks/{_WEBHOOK}", "deliveries": f"/v1/webhooks/{_WEBHOOK}/deliveries"},
}
_DELIVERY: dict[str, JsonValue] = {
    "id": "msg_cm43r5jupdcse6kndzl5blatpp",
    "webhook_id": _WEBHOOK,
    "type": "ping",
    "state": "pending",
    "data": {"webhook_id": _WEBHOOK},
    "failures": 1,
    "attempts": [
        {
            "number": 1,
            "at": "2026-12-01T12:00:00Z",
            "seconds": 0.084,
            "status": 503,
            "error": "the receiver answered 503",
            "answer": "down for maintenance",
        }
    ],
    "next_attempt_at": "2026-12-01T12:00:05Z",
    "created_at": "2026-12-01T12:00:00Z",
}


class WebhookDisabled(Answer):
    """Why the service itself disabled a webhook."""

    reason: str
    """Why, for people."""
    at: datetime
    """When it was disabled."""


class WebhookLinks(Answer):
    """Paths of a webhook and of what belongs to it."""

    self: str
    """The webhook itself."""
    deliveries: str
    """Its messages."""


class Webhook(Answer):
    """An address that is told what happens to jobs, studies and uploads."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    """`webhook_…`."""
    url: str
    """Where events are posted to. Without the scope `submit`: only scheme and host, and `/…` for the rest."""
    name: str | None
    """A name for people."""
    events: list[WebhookEvent] | None
    """null: all."""
    tags: list[str]
    """Only jobs and studies with one of these tags are told; empty: all."""
    enabled: bool
    """Whether it is told anything."""
    disabled: WebhookDisabled | None
    """Null as long as it is enabled, and if its owner disabled it."""
    failing_since: datetime | None
    """When the first of the attempts failed after which none succeeded; null if the newest attempt succeeded."""
    previous_secret_until: datetime | None
    """Until then messages are signed with the secret before the newest one too."""
    created_at: datetime
    """When it was created."""
    links: WebhookLinks
    """Where to read more of it."""


class WebhookWithSecret(Webhook):
    """A webhook whose secret was just made. The secret is shown only here."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_EXAMPLE, "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}]}
    )

    secret: str
    """`whsec_…`: verifies the signatures, after the Standard Webhooks specification."""


class DeliveryAttempt(Answer):
    """One HTTP request that should have delivered a message."""

    number: int
    """From 1. A number is missing if the service stopped before it could record how the attempt ended."""
    at: datetime
    """When it began."""
    seconds: float
    """How long it took."""
    status: int | None
    """HTTP status of the answer; null if there was none."""
    error: str | None
    """Why it failed; null if it succeeded."""
    answer: str | None
    """The first bytes of the answer's body, as text."""


class WebhookDelivery(Answer):
    """A message for one webhook, and the attempts to deliver it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_DELIVERY]})

    id: str
    """The `webhook-id` header of all attempts."""
    webhook_id: str
    """The webhook that it is for."""
    type: str
    """The event, or `ping` for a test."""
    state: DeliveryState
    """Whether it has arrived."""
    data: dict[str, Any]
    """What the message says."""
    failures: int
    """Failed attempts since the message was made, or since it was last redelivered."""
    attempts: list[DeliveryAttempt]
    """The newest twenty, oldest first."""
    next_attempt_at: datetime | None
    """Null if no attempt is planned: the message was delivered, is dead, or its webhook is disabled."""
    created_at: datetime
    """When the message was made."""
