"""/v1/keys: the API keys of all owners, for administrators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Response
from sqlalchemy.orm import Session

from api.http.auth import ADMIN
from api.http.bodies import JsonRoute
from api.http.context import InContext, InReads, InSession
from api.http.pages import InPages
from api.http.problems import invalid_field
from jobs.database.connection import clock
from jobs.database.models import ApiKey
from jobs.ledger import keys
from lit_spec.answers.keys import Key, NewKey
from lit_spec.answers.pages import Page
from lit_spec.requests.access import KeyRequest, RotateRequest


async def _forget_callers(context: InContext) -> AsyncIterator[None]:
    """Before the answer and after the commit: what the answer says holds for the next request."""
    yield
    context.callers.forget()


CHANGES_KEYS = Depends(_forget_callers, scope="function")
"""Among the `dependencies` of a route, which come before the session of its parameters, and so end after it."""

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=JsonRoute, dependencies=[ADMIN])


@router.post("", status_code=201, dependencies=[CHANGES_KEYS])
def create_key(asked: Annotated[KeyRequest, Body()], response: Response, session: InSession) -> NewKey:
    """Make a key. The answer has its secret, which nothing shows again."""
    _check_expiry(session, asked.expires_at)
    key, secret = keys.create(session, asked.name, owner=asked.owner, scopes=asked.scopes, expires_at=asked.expires_at)
    return _show_new(key, secret, response)


@router.get("")
def list_keys(
    session: InReads,
    page: InPages,
    owner: Annotated[str | None, Query(description="Only the keys of this owner.")] = None,
) -> Page[Key]:
    """List the keys of all owners, newest first, without their secrets."""
    rows = keys.list_page(session, owner=owner, after=page.after(), limit=page.limit + 1)
    return page.make_page(rows, Key.model_validate)


@router.get("/{key_id}")
def get_key(key_id: str, session: InReads) -> Key:
    """One key, without its secret."""
    return Key.model_validate(keys.get(session, key_id))


@router.delete("/{key_id}", status_code=204, dependencies=[CHANGES_KEYS])
def revoke_key(key_id: str, session: InSession) -> None:
    """Revoke a key: the next request with it is refused. The key stays in the list."""
    keys.revoke(session, key_id)


@router.post("/{key_id}/rotate", status_code=201, dependencies=[CHANGES_KEYS])
def rotate_key(key_id: str, asked: Annotated[RotateRequest, Body()], response: Response, session: InSession) -> NewKey:
    """Make a key with another secret for the same owner and scopes. The old one stays valid for `grace_seconds`."""
    _check_expiry(session, asked.expires_at)
    grace = timedelta(seconds=asked.grace_seconds)
    key, secret = keys.rotate(session, key_id, grace=grace, expires_at=asked.expires_at)
    return _show_new(key, secret, response)


def _check_expiry(session: Session, expires_at: datetime | None) -> None:
    """Raises Problem 422."""
    if expires_at is not None and expires_at <= clock(session):
        raise invalid_field("expires_at", "is in the past: give a time to come, or null")


def _show_new(key: ApiKey, secret: str, response: Response) -> NewKey:
    response.headers["Location"] = f"/v1/keys/{key.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKey.of(key, secret)
