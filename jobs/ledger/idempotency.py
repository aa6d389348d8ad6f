"""Idempotency keys: a request that is sent twice with the same key makes one job or one study."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from jobs.database.connection import Database
from jobs.database.models import IdempotencyKey, Job, Study
from jobs.errors import Conflict

IDEMPOTENCY_DAYS = 7


@dataclass(frozen=True)
class IdempotentRequest:
    """The caller's key, and a hash of the request that tells a repetition from another use of the key."""

    key: str
    request_hash: str

    @classmethod
    def of(cls, key: str, body: dict[str, Any]) -> Self:
        """`body` is what the caller sent, as JSON. Neither the order of fields nor 1.0 for 1 makes a difference."""
        plain = json.loads(json.dumps(body), parse_float=_plain_number)
        canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return cls(key, hashlib.sha256(canonical.encode()).hexdigest())


def _plain_number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def is_known(session: Session, owner: str, key: str) -> bool:
    """Whether an earlier request of the owner had this key."""
    query = select(IdempotencyKey.key).where(IdempotencyKey.owner == owner, IdempotencyKey.key == key)
    return session.scalars(query).one_or_none() is not None


def is_key_known(database: Database, owner: str, request: IdempotentRequest) -> bool:
    """The same at a glance. If not, a request at this moment may still be making something with the key."""
    known = "SELECT EXISTS (SELECT FROM idempotency_keys WHERE owner = %(owner)s AND key = %(key)s)"
    return bool(database.statement(known, {"owner": owner, "key": request.key})[0])


def find_job(session: Session, owner: str, request: IdempotentRequest | None) -> Job | None:
    """The job that the same request made earlier; None for a request without a key.

    Until this transaction ends, no other one can make anything with this key.
    Raises Conflict `idempotency-key-reused` when the key belongs to another request.
    """
    known = _lock_and_find(session, owner, request)
    return None if known is None else session.scalars(select(Job).where(Job.id == known.job_id)).one_or_none()


def find_study(session: Session, owner: str, request: IdempotentRequest | None) -> Study | None:
    """The study that the same request made earlier; like `find_job`."""
    known = _lock_and_find(session, owner, request)
    return None if known is None else session.scalars(select(Study).where(Study.id == known.study_id)).one_or_none()


def remember(
    session: Session,
    owner: str,
    request: IdempotentRequest | None,
    *,
    job_id: str | None = None,
    study_id: str | None = None,
) -> None:
    """Record what the request made: a job or a study."""
    if request is not None:
        session.add(
            IdempotencyKey(
                owner=owner, key=request.key, request_hash=request.request_hash, job_id=job_id, study_id=study_id
            )
        )
        session.flush()


def forget_old_keys(session: Session) -> None:
    """Remove the keys that are older than a week."""
    age = timedelta(days=IDEMPOTENCY_DAYS)
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.statement_timestamp() - age))


def _lock_and_find(session: Session, owner: str, request: IdempotentRequest | None) -> IdempotencyKey | None:
    if request is None:
        return None
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{owner}\n{request.key}", 0))))
    query = select(IdempotencyKey).where(IdempotencyKey.owner == owner, IdempotencyKey.key == request.key)
    known = session.scalars(query).one_or_none()
    if known is not None and known.request_hash != request.request_hash:
        raise Conflict(
            "idempotency-key-reused",
            "this Idempotency-Key belongs to an earlier, different request: use a new key for a new request",
        )
    return known
