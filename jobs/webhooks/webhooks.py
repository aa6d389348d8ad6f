"""Webhooks as their owner sees them: create, read, list, change, delete, and make a new secret."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from jobs.database.connection import clock
from jobs.database.models import Webhook, WebhookDelivery
from jobs.database.notifications import notify
from jobs.errors import Conflict
from jobs.ids import new_id
from jobs.ledger.owned_rows import PageCursor, find_owned, read_page
from jobs.webhooks.outbox import TOPIC
from lit_spec.states import DeliveryState

MOST_WEBHOOKS = 32
"""Of one owner. Each change of a state adds a row for each of them."""
SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of secrets, not a secret
SECRET_BYTES = 32
PREVIOUS_SECRET_HOURS = 24


def new_secret() -> str:
    """`whsec_` and 32 random bytes in base64, as the Standard Webhooks specification has it."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def create(
    session: Session,
    owner: str,
    *,
    url: str,
    name: str | None,
    events: Sequence[str] | None,
    tags: Sequence[str],
    enabled: bool,
) -> Webhook:
    """Add a webhook with a new secret. The caller has checked the URL. Raises Conflict `too-many-webhooks`."""
    # Those who add webhooks of one owner take turns, so that two at once can't both be the last one that fits.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"webhooks of\n{owner}", 0))))
    if session.scalars(select(func.count(Webhook.id)).where(Webhook.owner == owner)).one() >= MOST_WEBHOOKS:
        raise Conflict("too-many-webhooks", f"there are {MOST_WEBHOOKS} webhooks already: delete one first")
    webhook = Webhook(
        id=new_id("webhook"),
        owner=owner,
        url=url,
        name=name,
        events=None if events is None else list(dict.fromkeys(events)),
        tags=list(dict.fromkeys(tags)),
        enabled=enabled,
        secret=new_secret(),
    )
    session.add(webhook)
    session.flush()
    session.refresh(webhook)
    return webhook


def get(session: Session, owner: str, webhook_id: str, *, lock: bool = False) -> Webhook:
    """`lock` keeps the webhook as it is until this transaction ends. Raises NotFound, for another owner's too."""
    return find_owned(session, Webhook, owner, webhook_id, lock=lock)


def list_page(session: Session, owner: str, *, after: PageCursor | None = None, limit: int = 50) -> list[Webhook]:
    """The owner's webhooks, newest first."""
    return read_page(session, Webhook, owner, after=after, limit=limit)


def change(session: Session, owner: str, webhook_id: str, changes: dict[str, Any]) -> Webhook:
    """Set columns: `url`, `name`, `events`, `tags`, `enabled`. The caller has checked the URL. Raises NotFound.

    A webhook that becomes enabled gets what waits for it at once; one that becomes disabled gets nothing more.
    """
    webhook = get(session, owner, webhook_id, lock=True)
    enabled = changes.get("enabled", webhook.enabled)
    if enabled and not webhook.enabled:
        webhook.disabled_reason = webhook.disabled_at = webhook.failing_since = None
        _plan(session, webhook, now=True)
    elif webhook.enabled and not enabled:
        _plan(session, webhook, now=False)
    for name, value in changes.items():
        setattr(webhook, name, value)
    session.flush()
    return webhook


def disable(session: Session, webhook: Webhook, reason: str) -> None:
    """Disable a webhook whose row the caller has locked, because of its receiver."""
    webhook.enabled = False
    webhook.disabled_reason = reason
    webhook.disabled_at = clock(session)
    _plan(session, webhook, now=False)


def delete(session: Session, owner: str, webhook_id: str) -> None:
    """Remove a webhook with its deliveries. Raises NotFound."""
    webhook = find_owned(session, Webhook, owner, webhook_id, delete=True)
    session.execute(sql_delete(Webhook).where(Webhook.id == webhook.id))


def rotate_secret(session: Session, owner: str, webhook_id: str) -> Webhook:
    """Make a new secret. For a day messages are signed with the one before it too. Raises NotFound."""
    webhook = get(session, owner, webhook_id, lock=True)
    webhook.previous_secret = webhook.secret
    webhook.previous_secret_until = clock(session) + timedelta(hours=PREVIOUS_SECRET_HOURS)
    webhook.secret = new_secret()
    session.flush()
    return webhook


def _plan(session: Session, webhook: Webhook, *, now: bool) -> None:
    """Make all that waits for the webhook due now, or not at all."""
    waiting = (WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.state == DeliveryState.PENDING)
    due_at = func.clock_timestamp() if now else None
    session.execute(
        update(WebhookDelivery).where(*waiting).values(due_at=due_at), execution_options={"synchronize_session": False}
    )
    if now:
        notify(session, TOPIC)
