"""Rows of the ledger as the API shows them."""

from __future__ import annotations

from typing import Any

from jobs.database.models import Webhook as WebhookRow
from jobs.database.models import WebhookDelivery as DeliveryRow
from jobs.webhooks.urls import read_url
from lit_spec.answers.webhooks import (
    DeliveryAttempt,
    Webhook,
    WebhookDelivery,
    WebhookDisabled,
    WebhookLinks,
    WebhookWithSecret,
)
from lit_spec.base import READING_ANSWER
from lit_spec.states import DeliveryState


def show_webhook(webhook: WebhookRow, *, whole_url: bool = True) -> Webhook:
    """Without `whole_url`: only scheme and host of the URL, as the rest is often a secret."""
    fields = _fields(webhook)
    if not whole_url:
        url = read_url(webhook.url)
        fields["url"] = f"{url.scheme}://{url.authority}/…"
    return Webhook.model_validate(fields, context=READING_ANSWER)


def show_with_secret(webhook: WebhookRow) -> WebhookWithSecret:
    fields = {**_fields(webhook), "secret": webhook.secret}
    return WebhookWithSecret.model_validate(fields, context=READING_ANSWER)


def show_delivery(delivery: DeliveryRow) -> WebhookDelivery:
    return WebhookDelivery(
        id=delivery.id,
        webhook_id=delivery.webhook_id,
        type=delivery.type,
        state=DeliveryState(delivery.state),
        data=delivery.data,
        failures=delivery.failures,
        attempts=[DeliveryAttempt.model_validate(attempt) for attempt in delivery.attempts],
        next_attempt_at=delivery.due_at,
        created_at=delivery.created_at,
    )


def _fields(webhook: WebhookRow) -> dict[str, Any]:
    path = f"/v1/webhooks/{webhook.id}"
    disabled = None
    if webhook.disabled_reason is not None and webhook.disabled_at is not None:
        disabled = WebhookDisabled(reason=webhook.disabled_reason, at=webhook.disabled_at)
    return {
        "id": webhook.id,
        "url": webhook.url,
        "name": webhook.name,
        "events": webhook.events,
        "tags": webhook.tags,
        "enabled": webhook.enabled,
        "disabled": disabled,
        "failing_since": webhook.failing_since,
        "previous_secret_until": webhook.previous_secret_until,
        "created_at": webhook.created_at,
        "links": WebhookLinks(self=path, deliveries=f"{path}/deliveries"),
    }
