"""API keys. The ledger has only their hashes, so nobody who reads it can use a key."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Double, func, or_, select, update
from sqlalchemy.orm import Session

from jobs.database.connection import clock
from jobs.database.models import ApiKey
from jobs.errors import Conflict, NotFound
from jobs.ids import new_id
from jobs.ledger import audit
from jobs.ledger.owned_rows import PageCursor, read_rows
from lit_spec.scopes import USUAL_SCOPES, Scope, with_included

SECRET_PREFIX = "lit_"  # noqa: S105 - the prefix of secrets, not a secret
SECRET_BYTES = 32
SHOWN_CHARACTERS = 10
USE_RECORDED_EVERY = timedelta(minutes=1)
KEYS_TOPIC = "api-keys"
"""Notified by a trigger whenever what `authenticate` or `any_keys` answers may have changed, whoever changed it."""


@dataclass(frozen=True)
class KeyInUse:
    """What a secret stands for."""

    id: str
    name: str
    owner: str
    scopes: frozenset[Scope]
    expires_at: datetime | None
    expired: bool
    """By the database's clock. The key must be refused."""
    seconds_left: float | None
    """Until it expires, by the database's clock. None: it doesn't."""
    use_unrecorded: bool
    """Whether `record_use` has something to write."""


def create(
    session: Session,
    name: str,
    *,
    owner: str | None = None,
    scopes: Iterable[Scope] = USUAL_SCOPES,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret. The secret is not stored, so it can't be read again.

    `owner` None: the key is an owner of its own.
    """
    key, secret = _make(session, name, owner, sorted(with_included(scopes)), expires_at)
    audit.record(session, "key.create", key.id, detail=_described(key))
    return key, secret


def rotate(
    session: Session, key_id: str, *, grace: timedelta = timedelta(0), expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key with another secret, for the same owner and scopes. The old one expires after the grace period.

    `expires_at` None: the new key lives as long as the old one was made to. Raises NotFound, and Conflict `key-invalid`
    if the key is revoked, expired or already replaced.
    """
    old, now = _locked(session, key_id), clock(session)
    if old.revoked_at is not None or old.replaced_by is not None or (old.expires_at and old.expires_at <= now):
        raise Conflict("key-invalid", f"key {key_id} is revoked, expired or already replaced: rotate a valid one")
    if expires_at is None and old.expires_at is not None:
        expires_at = now + (old.expires_at - old.created_at)
    new, secret = _make(session, old.name, old.owner, old.scopes, expires_at)
    old.replaced_by = new.id
    old.expires_at = min(now + grace, old.expires_at or now + grace)
    session.flush()
    audit.record(session, "key.rotate", key_id, detail={"new": new.id, "grace_seconds": grace.total_seconds()})
    return new, secret


def authenticate(session: Session, secret: str) -> KeyInUse | None:
    """What a secret stands for, or None. The caller must look at `expired`."""
    now = func.clock_timestamp()
    expired = func.coalesce(ApiKey.expires_at <= now, False)
    unrecorded = func.coalesce(ApiKey.last_used_at < now - USE_RECORDED_EVERY, True)
    left = func.extract("epoch", ApiKey.expires_at - now).cast(Double)
    query = select(
        ApiKey.id,
        ApiKey.name,
        ApiKey.owner,
        ApiKey.scopes,
        ApiKey.expires_at,
        expired.label("expired"),
        left.label("seconds_left"),
        unrecorded,
    ).where(ApiKey.hash == hash_secret(secret), ApiKey.revoked_at.is_(None))
    row = session.execute(query).one_or_none()
    if row is None:
        return None
    scopes = frozenset(map(Scope, row.scopes))
    return KeyInUse(row.id, row.name, row.owner, scopes, row.expires_at, row.expired, row.seconds_left, row[-1])


def record_use(session: Session, key_id: str) -> None:
    """Note that the key was used just now. Does nothing, and waits for nobody, if another transaction has its row."""
    old = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.clock_timestamp() - USE_RECORDED_EVERY)
    free = select(ApiKey.id).where(ApiKey.id == key_id, old).with_for_update(skip_locked=True, key_share=True)
    statement = update(ApiKey).where(ApiKey.id.in_(free)).values(last_used_at=func.clock_timestamp())
    session.execute(statement, execution_options={"synchronize_session": False})


def revoke(session: Session, key_id: str) -> ApiKey:
    """Revoke a key: requests with it are refused. Revoking it again changes nothing. Raises NotFound."""
    key = _locked(session, key_id)
    if key.revoked_at is None:
        key.revoked_at = clock(session)
        audit.record(session, "key.revoke", key_id, detail=_described(key))
    return key


def get(session: Session, key_id: str) -> ApiKey:
    """Raises NotFound."""
    key = session.get(ApiKey, key_id)
    if key is None:
        raise NotFound("key", key_id)
    return key


def list_page(
    session: Session, *, owner: str | None = None, after: PageCursor | None = None, limit: int = 50
) -> list[ApiKey]:
    """The keys of one owner or of all, newest first."""
    filters = [] if owner is None else [ApiKey.owner == owner]
    return read_rows(session, ApiKey, filters=filters, after=after, limit=limit)


def all_keys(session: Session) -> list[ApiKey]:
    return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at)))


def any_keys(session: Session) -> bool:
    """Whether there is a key that was not revoked. Then every request needs one.

    An expired key counts: time alone must not open a service.
    """
    return session.scalars(select(ApiKey.id).where(ApiKey.revoked_at.is_(None)).limit(1)).one_or_none() is not None


def hash_secret(secret: str) -> str:
    """sha256 is enough: a secret has 256 random bits, so there is nothing to guess slowly.

    Looking the hash up leaks nothing by its timing that would help to find a secret.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


def _make(
    session: Session, name: str, owner: str | None, scopes: list[str], expires_at: datetime | None
) -> tuple[ApiKey, str]:
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    key_id = new_id("key")
    key = ApiKey(
        id=key_id,
        name=name,
        owner=owner or key_id,
        scopes=[str(scope) for scope in scopes],
        hash=hash_secret(secret),
        prefix=secret[:SHOWN_CHARACTERS],
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    return key, secret


def _locked(session: Session, key_id: str) -> ApiKey:
    key = session.get(ApiKey, key_id, with_for_update=True, populate_existing=True)
    if key is None:
        raise NotFound("key", key_id)
    return key


def _described(key: ApiKey) -> dict[str, object]:
    """What the audit log keeps of a key."""
    return {"name": key.name, "owner": key.owner, "scopes": key.scopes}
