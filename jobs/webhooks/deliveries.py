"""Deliveries: as their owner sees them, and as a delivering process records them.

`jobs.webhooks.claims` says which are sent next. Locks are taken in one order: the webhook's row, then the delivery's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from jobs.database.connection import clock
from jobs.database.models import Webhook, WebhookDelivery
from jobs.database.notifications import notify
from jobs.errors import Conflict, NotFound
from jobs.ledger.owned_rows import PageCursor, find_owned, read_page
from jobs.webhooks import webhooks
from jobs.webhooks.claims import DeliveryClaim
from jobs.webhooks.limits import require_room_for_test, require_room_to_ask
from jobs.webhooks.outbox import TOPIC, add_delivery
from jobs.webhooks.schedule import pause
from lit_spec.states import DeliveryState

PING = "ping"
ATTEMPTS_KEPT = 20
FAILING_DAYS = 5
KEPT_DAYS = 30
GONE = 410
PUT_OFF_SECONDS = 5.0
"""Until a message is due again that was not sent for a reason of the service itself."""


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt ended."""

    at: datetime
    seconds: float
    status: int | None = None
    error: str | None = None
    """None: the message was delivered."""
    answer: str | None = None
    retry_after: str | None = None


def get(session: Session, owner: str, webhook_id: str, delivery_id: str, *, lock: bool = False) -> WebhookDelivery:
    """Raises NotFound, for another owner's delivery too."""
    delivery = find_owned(session, WebhookDelivery, owner, delivery_id, lock=lock)
    if delivery.webhook_id != webhook_id:
        raise NotFound("delivery", delivery_id)
    return delivery


def list_page(
    session: Session,
    owner: str,
    webhook_id: str,
    *,
    state: str | None = None,
    after: PageCursor | None = None,
    limit: int = 50,
) -> list[WebhookDelivery]:
    """The deliveries of a webhook, newest first. Raises NotFound if the owner has no such webhook."""
    webhooks.get(session, owner, webhook_id)
    filters = [WebhookDelivery.webhook_id == webhook_id]
    if state is not None:
        filters.append(WebhookDelivery.state == state)
    return read_page(session, WebhookDelivery, owner, filters=filters, after=after, limit=limit)


def send_test(session: Session, owner: str, webhook_id: str) -> WebhookDelivery:
    """Send a `ping`, whatever the webhook is told otherwise. Raises NotFound, Conflict `webhook-disabled`,
    and TooManyRequests.
    """
    webhook = _enabled(session, owner, webhook_id)
    require_room_for_test(session, webhook, PING)
    return add_delivery(session, webhook, PING, {"webhook_id": webhook.id})


def redeliver(session: Session, owner: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Send a message again now, with the same id and all attempts anew. Raises NotFound, Conflict
    `webhook-disabled`, and TooManyRequests.
    """
    require_room_to_ask(session, _enabled(session, owner, webhook_id))
    delivery = get(session, owner, webhook_id, delivery_id, lock=True)
    delivery.state = DeliveryState.PENDING
    delivery.failures = 0
    delivery.due_at = clock(session)
    session.flush()
    notify(session, TOPIC)
    return delivery


def _enabled(session: Session, owner: str, webhook_id: str) -> Webhook:
    webhook = webhooks.get(session, owner, webhook_id, lock=True)
    if not webhook.enabled:
        raise Conflict("webhook-disabled", f"webhook {webhook_id} is disabled: enable it first")
    return webhook


def next_due(session: Session) -> float | None:
    """Seconds until the next message is due, by what is planned now. None: nothing waits."""
    query = (
        select(func.min(WebhookDelivery.due_at))
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(WebhookDelivery.state == DeliveryState.PENDING, WebhookDelivery.due_at.is_not(None), Webhook.enabled)
    )
    first = session.scalar(query)
    return None if first is None else (first - clock(session)).total_seconds()


def record(session: Session, claim: DeliveryClaim, result: AttemptResult) -> str | None:
    """Write how an attempt ended, and plan the next one. Returns why the webhook was disabled, if it was.

    Does nothing if the webhook was deleted, or the message claimed again, meanwhile.
    """
    one = select(Webhook).where(Webhook.id == claim.webhook_id).with_for_update(key_share=True)
    webhook = session.scalars(one, execution_options={"populate_existing": True}).one_or_none()
    own = (
        WebhookDelivery.id == claim.id,
        WebhookDelivery.attempt == claim.attempt,
        WebhookDelivery.state == DeliveryState.PENDING,
    )
    held = select(WebhookDelivery).where(*own).with_for_update()
    delivery = session.scalars(held, execution_options={"populate_existing": True}).one_or_none()
    if webhook is None or delivery is None:
        return None
    delivery.attempts = [*delivery.attempts, _stored(claim, result)][-ATTEMPTS_KEPT:]
    if result.error is None:
        delivery.state, delivery.due_at = DeliveryState.DELIVERED, None
        webhook.failing_since = None
        return None
    now = clock(session)
    webhook.failing_since = webhook.failing_since or now
    delivery.failures += 1
    wait = None if result.status == GONE else pause(delivery.failures, result.retry_after)
    if wait is None:
        delivery.state, delivery.due_at = DeliveryState.DEAD, None
    else:
        delivery.due_at = now + timedelta(seconds=wait) if webhook.enabled else None
    session.flush()
    reason = _why_disabled(webhook, delivery, result, now)
    if reason is not None and webhook.enabled:
        webhooks.disable(session, webhook, reason)
        return reason
    return None


def put_off(session: Session, claim: DeliveryClaim) -> None:
    """Nothing was sent, which is not the receiver's fault: the message is due again soon, and no failure counts."""
    due_at = func.clock_timestamp() + timedelta(seconds=PUT_OFF_SECONDS)
    # A message that waits for a disabled webhook has no time.
    waits = (WebhookDelivery.state == DeliveryState.PENDING, WebhookDelivery.due_at.is_not(None))
    own = (WebhookDelivery.id == claim.id, WebhookDelivery.attempt == claim.attempt)
    session.execute(update(WebhookDelivery).where(*own, *waits).values(due_at=due_at))


def _why_disabled(webhook: Webhook, delivery: WebhookDelivery, result: AttemptResult, now: datetime) -> str | None:
    if result.status == GONE:
        return "the receiver answered 410 Gone"
    since = webhook.failing_since
    if delivery.state == DeliveryState.DEAD and since is not None and now - since >= timedelta(days=FAILING_DAYS):
        return f"no message was delivered for {FAILING_DAYS} days; the newest error: {result.error}"
    return None


def _stored(claim: DeliveryClaim, result: AttemptResult) -> dict[str, Any]:
    return {
        "number": claim.attempt,
        "at": result.at.isoformat(),
        "seconds": round(result.seconds, 3),
        "status": result.status,
        "error": result.error,
        "answer": result.answer,
    }


def forget_old(session: Session) -> None:
    """Remove the messages that are older than a month, delivered or not."""
    age = timedelta(days=KEPT_DAYS)
    session.execute(sql_delete(WebhookDelivery).where(WebhookDelivery.created_at < func.statement_timestamp() - age))
