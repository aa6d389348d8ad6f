"""Webhooks, and the messages for them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.database.models.base import Base, now

PLANNED = "state = 'pending' AND due_at IS NOT NULL"
"""Messages for webhooks that wait for an attempt."""


class Webhook(Base):
    """An address that an owner wants to be told events at."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_owner_created_at_id", "owner", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    url: Mapped[str]
    name: Mapped[str | None]
    events: Mapped[list[str] | None]
    """Types of events. None: all."""
    tags: Mapped[list[str]]
    """Only what has one of these tags. Empty: everything."""
    enabled: Mapped[bool]
    disabled_reason: Mapped[str | None]
    """Why the service disabled it. None if its owner did."""
    disabled_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    """When the first attempt failed after the newest success."""
    secret: Mapped[str]
    """Signatures are symmetric, so the secret itself is needed."""
    previous_secret: Mapped[str | None]
    previous_secret_until: Mapped[datetime | None]
    """Until then messages are signed with the previous secret too."""
    created_at: Mapped[datetime] = now()


class WebhookDelivery(Base):
    """A message for a webhook. It is added by the transaction that changed what it tells of."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
        Index("ix_webhook_deliveries_webhook_id_created_at_id", "webhook_id", "created_at", "id"),
        Index("ix_webhook_deliveries_webhook_id_state_created_at_id", "webhook_id", "state", "created_at", "id"),
        Index("ix_webhook_deliveries_due", "due_at", postgresql_where=text(PLANNED)),
        Index("ix_webhook_deliveries_webhook_id_due", "webhook_id", "due_at", "id", postgresql_where=text(PLANNED)),
        Index("ix_webhook_deliveries_created_at", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    owner: Mapped[str]
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
    state: Mapped[str]
    due_at: Mapped[datetime | None]
    """When the next attempt is due. While one is under way: when it counts as lost. None while the webhook is
    disabled."""
    attempt: Mapped[int] = mapped_column(server_default="0")
    """How often the message was claimed. It only grows, and fences off every earlier attempt."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """Failed attempts since the message was made, or since its owner asked for another delivery."""
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(server_default=text("'[]'::jsonb"))
    """The newest attempts, oldest first."""
    created_at: Mapped[datetime] = now()
