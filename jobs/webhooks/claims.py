"""Which messages one process sends next: the owners take turns, and slow or failing receivers leave room for others.

A claim is a lease: `due_at` lies after the longest possible attempt. So what a process that died had claimed is due
again. `attempt` fences off what it still records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CTE, func, or_, select, text, true
from sqlalchemy.orm import Session

from jobs.database.connection import clock
from jobs.database.models import PLANNED, Webhook, WebhookDelivery
from lit_spec.states import DeliveryState

LEASE_SECONDS = 60.0
PER_WEBHOOK = 4
"""How many messages one process sends to the same webhook at a time."""
PER_OWNER = 16
FAILING_PER_WEBHOOK = 1
"""The same while the newest attempt failed: its receiver is likely to take all the time that an attempt may last."""
FAILING_PER_OWNER = 4
MOST_CANDIDATES = 1000
ROUNDS = 3


@dataclass(frozen=True)
class DeliveryClaim:
    """A message, and one attempt to deliver it."""

    id: str
    attempt: int
    webhook_id: str
    owner: str
    url: str
    secrets: tuple[str, ...]
    """All that the message must be signed with, the newest first."""
    type: str
    data: dict[str, Any]
    created_at: datetime
    failing: bool
    """Whether the newest attempt for this webhook failed."""


@dataclass(frozen=True)
class _Candidate:
    id: str
    webhook_id: str
    owner: str
    due_at: datetime
    failing: bool


class _Shares:
    """How much of a process webhooks and owners use. `room` is how many more messages it may send."""

    def __init__(self, room: int, under_way: Iterable[DeliveryClaim]) -> None:
        self.room = room
        self.by_webhook = Counter[str]()
        self.by_owner = Counter[str]()
        self._failing = Counter[str]()
        for each in under_way:
            self._count(each)

    def take(self, candidate: _Candidate) -> None:
        self._count(candidate)
        self.room -= 1

    def _count(self, each: _Candidate | DeliveryClaim) -> None:
        self.by_webhook[each.webhook_id] += 1
        self.by_owner[each.owner] += 1
        self._failing[each.owner] += each.failing

    @property
    def per_owner(self) -> int:
        # Never more than there is room left, so that a few owners together always leave some to those who come next.
        return min(PER_OWNER, self.room)

    def allow(self, candidate: _Candidate) -> bool:
        if self.by_owner[candidate.owner] >= self.per_owner:
            return False
        if candidate.failing:
            few = self._failing[candidate.owner] < FAILING_PER_OWNER
            return few and self.by_webhook[candidate.webhook_id] < FAILING_PER_WEBHOOK
        return self.by_webhook[candidate.webhook_id] < PER_WEBHOOK


def claim(session: Session, most: int, under_way: Iterable[DeliveryClaim] = ()) -> list[DeliveryClaim]:
    """Claim up to `most` messages that are due: of the owner with the fewest under way first, and of these the longest
    due.

    `under_way` are those that this process is sending: no webhook and no owner gets more than its share.
    """
    sending, claims, lost = list(under_way), list[DeliveryClaim](), set[str]()
    for _ in range(ROUNDS):
        shares = _Shares(most - len(claims), [*sending, *claims])
        chosen = _choose(_candidates(session, shares, lost), shares) if shares.room > 0 else []
        taken = _take(session, chosen)
        claims += taken
        # Another process is just claiming them.
        lost |= {each.id for each in chosen} - {each.id for each in taken}
        if len(taken) == len(chosen):
            break
    return claims


def _candidates(session: Session, shares: _Shares, lost: Iterable[str]) -> list[_Candidate]:
    """The first messages that are due of each webhook which has not its share."""
    full = [owner for owner, number in shares.by_owner.items() if number >= shares.per_owner]
    busy = [id for id, number in shares.by_webhook.items() if number >= PER_WEBHOOK]
    sending = [id for id, number in shares.by_webhook.items() if number >= FAILING_PER_WEBHOOK]
    waiting = _webhooks_with_messages()
    due = (
        select(
            WebhookDelivery.id,
            WebhookDelivery.due_at,
            func.row_number().over(order_by=(WebhookDelivery.due_at, WebhookDelivery.id)).label("place"),
        )
        .where(
            text(PLANNED),
            WebhookDelivery.webhook_id == waiting.c.webhook_id,
            WebhookDelivery.due_at <= func.statement_timestamp(),
            WebhookDelivery.id.not_in(lost),
        )
        .order_by(WebhookDelivery.due_at, WebhookDelivery.id)
        .limit(PER_WEBHOOK)
        .lateral()
    )
    query = (
        select(due.c.id, Webhook.id, Webhook.owner, due.c.due_at, Webhook.failing_since.is_not(None))
        .select_from(waiting.join(Webhook, Webhook.id == waiting.c.webhook_id).join(due, true()))
        .where(
            Webhook.enabled,
            Webhook.id.not_in(busy),
            Webhook.owner.not_in(full),
            or_(Webhook.failing_since.is_(None), Webhook.id.not_in(sending)),
        )
        .order_by(due.c.place, due.c.due_at)
        .limit(MOST_CANDIDATES)
    )
    return [_Candidate(*row) for row in session.execute(query)]


def _webhooks_with_messages() -> CTE:
    """The ids of the webhooks for which messages wait: one step in the index for each, however many messages wait."""
    planned = text(PLANNED)
    first = select(WebhookDelivery.webhook_id).where(planned).order_by(WebhookDelivery.webhook_id).limit(1)
    found = first.cte(recursive=True)
    step = (
        select(WebhookDelivery.webhook_id)
        .where(planned, WebhookDelivery.webhook_id > found.c.webhook_id)
        .order_by(WebhookDelivery.webhook_id)
        .limit(1)
        .lateral()
    )
    return found.union_all(select(step.c.webhook_id).select_from(found.join(step, true())))


def _choose(candidates: Sequence[_Candidate], shares: _Shares) -> list[_Candidate]:
    chosen = []
    left = list(candidates)
    while left := [each for each in left if shares.allow(each)]:
        following = min(left, key=lambda each: (shares.by_owner[each.owner], each.due_at, each.id))
        shares.take(following)
        left.remove(following)
        chosen.append(following)
    return chosen


def _take(session: Session, chosen: Sequence[_Candidate]) -> list[DeliveryClaim]:
    """Those of the chosen that nobody else has locked or claimed, in their order."""
    if not chosen:
        return []
    places = {each.id: place for place, each in enumerate(chosen)}
    now = clock(session)
    query = (
        select(WebhookDelivery, Webhook)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(
            WebhookDelivery.id.in_(places),
            WebhookDelivery.state == DeliveryState.PENDING,
            WebhookDelivery.due_at <= now,
            Webhook.enabled,
        )
        .with_for_update(of=WebhookDelivery, skip_locked=True)
    )
    found = sorted(session.execute(query).all(), key=lambda row: places[row[0].id])
    for delivery, _ in found:
        delivery.attempt += 1
        delivery.due_at = now + timedelta(seconds=LEASE_SECONDS)
    session.flush()
    return [_claimed(delivery, webhook, now) for delivery, webhook in found]


def _claimed(delivery: WebhookDelivery, webhook: Webhook, now: datetime) -> DeliveryClaim:
    secrets = [webhook.secret]
    if webhook.previous_secret and webhook.previous_secret_until and webhook.previous_secret_until > now:
        secrets.append(webhook.previous_secret)
    return DeliveryClaim(
        id=delivery.id,
        attempt=delivery.attempt,
        webhook_id=webhook.id,
        owner=webhook.owner,
        url=webhook.url,
        secrets=tuple(secrets),
        type=delivery.type,
        data=delivery.data,
        created_at=delivery.created_at,
        failing=webhook.failing_since is not None,
    )
