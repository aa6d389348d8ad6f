"""Limits of the messages for one webhook: how many may wait, and how many its owner may ask for."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, Subquery, func, select, update
from sqlalchemy.orm import Session

from jobs.database.models import Webhook, WebhookDelivery
from jobs.errors import TooManyRequests
from lit_spec.states import DeliveryState

MOST_WAITING = 10_000
"""Messages that may wait for one webhook; of more, the oldest are given up."""
MOST_DUE = 100
"""With so many messages due already, an owner can't ask for more."""
TESTS_PER_MINUTE = 20
MINUTE_SECONDS = 60


def give_up_backlogs(session: Session) -> None:
    """Give up the oldest messages of each webhook for which more than MOST_WAITING wait."""
    planned = (WebhookDelivery.state == DeliveryState.PENDING, WebhookDelivery.due_at.is_not(None))
    # Usually the index of what is due says in a moment that there is nothing to do.
    some = select(WebhookDelivery.due_at).where(*planned).limit(MOST_WAITING + 1).subquery()
    if session.scalars(select(func.count()).select_from(some)).one() <= MOST_WAITING:
        return
    full = select(WebhookDelivery.webhook_id).where(*planned).group_by(WebhookDelivery.webhook_id)
    for webhook_id in session.scalars(full.having(func.count() > MOST_WAITING)).all():
        too_many = (
            select(WebhookDelivery.id)
            .where(*planned, WebhookDelivery.webhook_id == webhook_id)
            .order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
            .offset(MOST_WAITING)
            .with_for_update(skip_locked=True)
        )
        given_up = update(WebhookDelivery).where(WebhookDelivery.id.in_(too_many.scalar_subquery()))
        session.execute(
            given_up.values(
                state=DeliveryState.DEAD,
                due_at=None,
                attempts=WebhookDelivery.attempts.concat(func.jsonb_build_array(_reason())),
            ),
            execution_options={"synchronize_session": False},
        )


def _reason() -> ColumnElement[object]:
    """As an attempt that was not made, because owners look there for what became of a message."""
    error = f"given up without an attempt: more than {MOST_WAITING:,} messages waited for this webhook"
    at = func.to_char(func.timezone("UTC", func.clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
    known = ("number", WebhookDelivery.attempt, "at", at, "seconds", 0, "status", None, "error", error, "answer", None)
    return func.jsonb_build_object(*known)


def require_room_to_ask(session: Session, webhook: Webhook) -> None:
    """Room for a message that the owner of the webhook, whose row is locked, asks for. Raises TooManyRequests."""
    now = func.statement_timestamp()
    own = WebhookDelivery.webhook_id == webhook.id
    due = select(WebhookDelivery.id).where(own, WebhookDelivery.state == DeliveryState.PENDING)
    if _count(session, due.where(WebhookDelivery.due_at <= now).limit(MOST_DUE).subquery()) >= MOST_DUE:
        detail = f"{MOST_DUE} messages for webhook {webhook.id} are due already: wait until they are sent"
        raise TooManyRequests(detail, MINUTE_SECONDS)


def require_room_for_test(session: Session, webhook: Webhook, type: str) -> None:
    """Room for one more message of this type within a minute; else like `require_room_to_ask`."""
    since = func.statement_timestamp() - timedelta(seconds=MINUTE_SECONDS)
    own = WebhookDelivery.webhook_id == webhook.id
    newest = select(WebhookDelivery.id).where(own, WebhookDelivery.created_at > since, WebhookDelivery.type == type)
    if _count(session, newest.limit(TESTS_PER_MINUTE).subquery()) >= TESTS_PER_MINUTE:
        detail = f"webhook {webhook.id} was tested {TESTS_PER_MINUTE} times within a minute: wait a minute"
        raise TooManyRequests(detail, MINUTE_SECONDS)
    require_room_to_ask(session, webhook)


def _count(session: Session, found: Subquery) -> int:
    return session.scalars(select(func.count()).select_from(found)).one()
