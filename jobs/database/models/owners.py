"""Owners: their API keys, quotas and repeated requests, and the log of what they changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from jobs.database.models.base import Base, now


class ApiKey(Base):
    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_created_at_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    owner: Mapped[str]
    """Whose things the key reaches. Several keys may have one owner: a team."""
    scopes: Mapped[list[str]]
    """Of `read`, `submit` and `admin`, sorted. Those that a scope includes are named too."""
    hash: Mapped[str] = mapped_column(unique=True)
    """Hexadecimal sha256 of the secret. The secret itself is not stored."""
    prefix: Mapped[str]
    """The secret's first characters, to tell keys apart."""
    created_at: Mapped[datetime] = now()
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """To the minute."""
    revoked_at: Mapped[datetime | None]
    replaced_by: Mapped[str | None]
    """The key that a rotation made from this one."""


class OwnerQuotas(Base):
    """The quotas of an owner that differ from the service's."""

    __tablename__ = "owner_quotas"

    owner: Mapped[str] = mapped_column(primary_key=True)
    limits: Mapped[dict[str, Any]]
    """By the name of the quota; null: no limit. A quota that is not named is the service's."""
    updated_at: Mapped[datetime] = now()


class OwnerBytes(Base):
    """How much an owner stores. Triggers keep it, because the sum over all jobs and uploads would read all of them."""

    __tablename__ = "owner_bytes"

    owner: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int]
    """Of uploads, by their announced sizes, and of the files of jobs that are not removed."""


class AuditEntry(Base):
    """Something that somebody changed, or was not allowed to."""

    __tablename__ = "audit_log"
    __table_args__ = (
        CheckConstraint("outcome IN ('done', 'denied')", name="outcome"),
        Index("ix_audit_log_created_at_id", "created_at", "id"),
        Index("ix_audit_log_owner_created_at_id", "owner", "created_at", "id"),
        Index("ix_audit_log_key_id_created_at_id", "key_id", "created_at", "id"),
        Index("ix_audit_log_action_created_at_id", "action", "created_at", "id"),
        Index("ix_audit_log_object_id_created_at_id", "object_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = now()
    owner: Mapped[str | None]
    """Of the request. None: nobody's, as on the command line."""
    key_id: Mapped[str | None]
    subject: Mapped[str | None]
    """Of a bearer token; on the command line the user of the machine."""
    action: Mapped[str]
    """The kind of the object and what was done, as in `job.create`."""
    kind: Mapped[str]
    object_id: Mapped[str | None]
    outcome: Mapped[str]
    request_id: Mapped[str | None]
    address: Mapped[str | None]
    """The client's, as the service sees it."""
    detail: Mapped[dict[str, Any] | None]


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("num_nonnulls(job_id, study_id) = 1", name="one_made"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )

    owner: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    study_id: Mapped[str | None] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = now()
