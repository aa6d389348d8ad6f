"""What the API answers about webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lit_spec.answers.base import Answer
from lit_spec.requests.webhook import WebhookEvent
from lit_spec.states import DeliveryState


class WebhookDisabled(Answer):
    """Why the service itself disabled a webhook."""

    reason: str
    at: datetime


class WebhookLinks(Answer):
    self: str
    deliveries: str


class Webhook(Answer):
    """An address that is told what happens to jobs, studies and uploads."""

    id: str
    url: str
    name: str | None
    events: list[WebhookEvent] | None
    """null: all."""
    tags: list[str]
    enabled: bool
    disabled: WebhookDisabled | None
    """Null as long as it is enabled, and if its owner disabled it."""
    failing_since: datetime | None
    """When the first of the attempts failed after which none succeeded; null if the newest attempt succeeded."""
    previous_secret_until: datetime | None
    """Until then messages are signed with the secret before the newest one too."""
    created_at: datetime
    links: WebhookLinks


class WebhookWithSecret(Webhook):
    """A webhook whose secret was just made. The secret is shown only here."""

    secret: str
    """`whsec_…`: verifies the signatures, after the Standard Webhooks specification."""


class DeliveryAttempt(Answer):
    """One HTTP request that should have delivered a message."""

    number: int
    """From 1. A number is missing if the service stopped before it could record how the attempt ended."""
    at: datetime
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

    id: str
    """The `webhook-id` header of all attempts."""
    webhook_id: str
    type: str
    """The event, or `ping` for a test."""
    state: DeliveryState
    data: dict[str, Any]
    """What the message says."""
    failures: int
    """Failed attempts since the message was made, or since it was last redelivered."""
    attempts: list[DeliveryAttempt]
    """The newest twenty, oldest first."""
    next_attempt_at: datetime | None
    """Null if no attempt is planned: the message was delivered, is dead, or its webhook is disabled."""
    created_at: datetime
