"""API keys. The ledger has only their hashes, so nobody who reads it can use a key."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database.connection import clock
from jobs.database.models import ApiKey
from jobs.errors import NotFound
from jobs.ids import new_id

SECRET_PREFIX = "lit_"  # noqa: S105 - the prefix of secrets, not a secret
SECRET_BYTES = 32
SHOWN_CHARACTERS = 10


def create(session: Session, name: str) -> tuple[ApiKey, str]:
    """A new key and its secret. The secret is not stored, so it can't be read again."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(id=new_id("key"), name=name, hash=hash_secret(secret), prefix=secret[:SHOWN_CHARACTERS])
    session.add(key)
    session.flush()
    session.refresh(key)
    return key, secret


def authenticate(session: Session, secret: str) -> str | None:
    """The owner that a secret stands for, or None."""
    query = select(ApiKey.id).where(ApiKey.hash == hash_secret(secret), ApiKey.revoked_at.is_(None))
    return session.scalars(query).one_or_none()


def revoke(session: Session, key_id: str) -> ApiKey:
    """Revoke a key: requests with it are refused. Revoking it again changes nothing. Raises NotFound."""
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFound("key", key_id)
    if key.revoked_at is None:
        key.revoked_at = clock(session)
    return key


def all_keys(session: Session) -> list[ApiKey]:
    return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at)))


def any_keys(session: Session) -> bool:
    """Whether there is a valid key. Then every request needs one."""
    return session.scalars(select(ApiKey.id).where(ApiKey.revoked_at.is_(None)).limit(1)).one_or_none() is not None


def hash_secret(secret: str) -> str:
    """sha256 is enough: a secret has 256 random bits, so there is nothing to guess slowly.

    Looking the hash up leaks nothing by its timing that would help to find a secret.
    """
    return hashlib.sha256(secret.encode()).hexdigest()
