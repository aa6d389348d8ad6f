"""/v1/webhooks: addresses that are told what happens to jobs, studies and uploads, and what was delivered to them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from sqlalchemy.orm import Session

from api.http.auth import InCaller, Owner
from api.http.bodies import JsonRoute, SentJson
from api.http.callers import Caller
from api.http.context import Context, InContext, InReads, InSession, in_transaction
from api.http.pages import InPages
from api.http.problems import invalid_field, unavailable
from api.webhooks.schemas import show_delivery, show_webhook, show_with_secret
from jobs.database.models import Webhook as WebhookRow
from jobs.ledger import audit
from jobs.webhooks import deliveries, webhooks
from jobs.webhooks.lookups import LookupsBusy
from jobs.webhooks.urls import read_url
from lit_spec.answers.pages import Page
from lit_spec.answers.webhooks import Webhook, WebhookDelivery, WebhookWithSecret
from lit_spec.requests.webhook import WebhookChange, WebhookRequest
from lit_spec.scopes import Scope
from lit_spec.states import DeliveryState

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=JsonRoute)

LOOKUP_SECONDS = 10
"""After which a lookup may find a free thread again."""


@router.post("", status_code=201)
async def create_webhook(
    webhook: Annotated[WebhookRequest, Body()], response: Response, owner: Owner, context: InContext
) -> WebhookWithSecret:
    """Let an address be told what happens. The answer has the `secret` that verifies its messages; it isn't shown
    again. Messages follow the Standard Webhooks specification (https://www.standardwebhooks.com).
    """
    values: dict[str, Any] = webhook.model_dump(mode="json")
    values["url"] = await _checked_url(context, owner, webhook.url)

    def create(session: Session) -> WebhookRow:
        made = webhooks.create(session, owner, **values)
        audit.record(session, "webhook.create", made.id)
        return made

    made = await in_transaction(context, create)
    response.headers["Location"] = f"/v1/webhooks/{made.id}"
    return show_with_secret(made)


@router.get("")
def list_webhooks(caller: InCaller, session: InReads, page: InPages) -> Page[Webhook]:
    """Your webhooks, newest first. Without the scope `submit`, `url` ends after the host."""
    rows = webhooks.list_page(session, caller.owner, after=page.after(), limit=page.limit + 1)
    return page.make_page(rows, partial(show_webhook, whole_url=_sees_urls(caller)))


@router.get("/{webhook_id}")
def get_webhook(webhook_id: str, caller: InCaller, session: InReads) -> Webhook:
    """One webhook, without its secret. `disabled` says why the service disabled it. Without the scope `submit`, `url`
    ends after the host.
    """
    return show_webhook(webhooks.get(session, caller.owner, webhook_id), whole_url=_sees_urls(caller))


@router.patch("/{webhook_id}")
async def change_webhook(
    webhook_id: str,
    changes: Annotated[WebhookChange, Body()],
    sent: SentJson,
    owner: Owner,
    context: InContext,
) -> Webhook:
    """Change fields; those that are left out stay. `{"enabled": true}` enables a webhook again, and sends what waits
    for it.
    """
    values: dict[str, Any] = {name: value for name, value in changes.model_dump(mode="json").items() if name in sent}
    if values.get("tags", []) is None:
        values["tags"] = []
    values = {name: value for name, value in values.items() if value is not None or name in {"name", "events"}}
    if "url" in values:
        values["url"] = await _checked_url(context, owner, values["url"])

    def change(session: Session) -> WebhookRow:
        changed = webhooks.change(session, owner, webhook_id, values)
        audit.record(session, "webhook.change", webhook_id, detail={"fields": sorted(values)})
        return changed

    return show_webhook(await in_transaction(context, change))


@router.delete("/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: str, owner: Owner, session: InSession) -> None:
    """Delete a webhook with its deliveries. What waits is not sent."""
    webhooks.delete(session, owner, webhook_id)
    audit.record(session, "webhook.delete", webhook_id)


@router.post("/{webhook_id}/test", status_code=202)
def test_webhook(webhook_id: str, owner: Owner, session: InSession) -> WebhookDelivery:
    """Send a message of the type `ping`. Its delivery says what came of it. 409 if the webhook is disabled."""
    sent = deliveries.send_test(session, owner, webhook_id)
    audit.record(session, "webhook.test", webhook_id)
    return show_delivery(sent)


@router.post("/{webhook_id}/rotate-secret")
def rotate_secret(webhook_id: str, owner: Owner, session: InSession) -> WebhookWithSecret:
    """Make a new secret, which is shown once. For a day messages carry two signatures, one of them by the secret
    before.
    """
    changed = webhooks.rotate_secret(session, owner, webhook_id)
    audit.record(session, "webhook.rotate_secret", webhook_id)
    return show_with_secret(changed)


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: str,
    owner: Owner,
    session: InReads,
    page: InPages,
    state: Annotated[DeliveryState | None, Query(description="`dead`: what was given up.")] = None,
) -> Page[WebhookDelivery]:
    """The messages of the last 30 days with the attempts to deliver them, newest first."""
    rows = deliveries.list_page(session, owner, webhook_id, state=state, after=page.after(), limit=page.limit + 1)
    return page.make_page(rows, show_delivery)


@router.get("/{webhook_id}/deliveries/{delivery_id}")
def get_delivery(webhook_id: str, delivery_id: str, owner: Owner, session: InReads) -> WebhookDelivery:
    """One message and the attempts to deliver it."""
    return show_delivery(deliveries.get(session, owner, webhook_id, delivery_id))


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202)
def redeliver(webhook_id: str, delivery_id: str, owner: Owner, session: InSession) -> WebhookDelivery:
    """Send a message again now, with the same `webhook-id`, whatever became of it. 409 if the webhook is disabled."""
    sent = deliveries.redeliver(session, owner, webhook_id, delivery_id)
    audit.record(session, "webhook.redeliver", webhook_id, detail={"delivery": delivery_id})
    return show_delivery(sent)


def _sees_urls(caller: Caller) -> bool:
    return Scope.SUBMIT in caller.scopes


async def _checked_url(context: Context, owner: str, text: str) -> str:
    """The URL as it will be used. Raises Problem 422 if messages could not be sent there, and 503 if too many names
    are being looked up.
    """
    try:
        url = read_url(text)
        await context.receivers.addresses(url, owner)
    except ValueError as wrong:
        raise invalid_field("url", str(wrong)) from wrong
    except LookupsBusy as busy:
        detail = f"too many names of receivers are being looked up, so {url.host} was not checked: try again"
        raise unavailable(detail, LOOKUP_SECONDS) from busy
    return str(url)
