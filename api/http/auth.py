"""Finds the owner of a request: the owner of its API key, or `local` on a service without keys."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from api.http.addresses import check_address
from api.http.context import Context, InContext
from api.http.headers import host_name
from api.http.problems import Problem
from jobs.ledger import keys

LOCAL_OWNER = "local"
SCHEME = "bearer"
_BEARER = HTTPBearer(
    scheme_name="key",
    description="Not needed from this machine itself while the service has no keys.",
    auto_error=False,
)


def check_caller(request: Request, context: Context) -> str:
    """The owner of this request; only a caller with a key learns what is wrong with its path or parameters.

    Raises Problem 401, 403, 404 or 422.
    """
    owner = _authenticate(request, context)
    request.state.owner = owner
    check_address(request)
    return owner


def _authenticate(request: Request, context: Context) -> str:
    """Raises Problem 401 or 403."""
    header = request.headers.get("Authorization")
    # In its own session, because a request may wait for long and must not occupy a connection all the time.
    with context.database.session() as session:
        if header is not None:
            return _by_key(header, session)
        open_to_all = context.keyless and not keys.any_keys(session)
    if not open_to_all:
        raise _unauthorized("send an API key as `Authorization: Bearer lit_…`; `litc keys create NAME` makes one")
    refuse_browsers_of_others(request)
    return LOCAL_OWNER


def _get_owner(
    request: Request,
    context: InContext,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> str:
    known: str | None = getattr(request.state, "owner", None)
    return check_caller(request, context) if known is None else known


Owner = Annotated[str, Depends(_get_owner)]
"""The owner of the request. Routes with a body have already found it, before they read the body."""


def _by_key(header: str, session: Session) -> str:
    scheme, _, secret = header.partition(" ")
    owner = keys.authenticate(session, secret.strip()) if scheme.lower() == SCHEME else None
    if owner is None:
        raise _unauthorized("this is not an API key of this service, or it was revoked: check the key")
    return owner


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def refuse_browsers_of_others(request: Request) -> None:
    """Refuse requests of web pages from elsewhere, which reach this service through a browser on this machine.

    If the page's name resolves to this machine, the browser sends that name as Host; otherwise it sends an Origin.
    """
    host = request.headers.get("Host", "")
    if not is_loopback(host_name(host)):
        raise Problem(
            403,
            "forbidden-origin",
            f"without API keys, Host must be a loopback address, not {host!r}: make a key (`litc keys create NAME`)",
        )
    origin = request.headers.get("Origin")
    if origin is not None and origin not in {f"http://{host}", f"https://{host}"}:
        raise Problem(
            403,
            "forbidden-origin",
            f"without API keys, no page of {origin!r} may use this service: make a key (`litc keys create NAME`)",
        )


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address always means this machine."""
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
