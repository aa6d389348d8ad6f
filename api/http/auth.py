"""Finds the caller of a request: by an API key, by a bearer token of the issuer, or `local` on a service without keys.

Who was found is known for a minute (`KnownCallers`), while the ledger would tell of a key that is revoked or changed.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import Annotated

import structlog
from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.exc import SQLAlchemyError

from api.http.addresses import check_address
from api.http.callers import Caller
from api.http.context import Context, get_context
from api.http.headers import host_name
from api.http.problems import Problem
from api.http.tokens import looks_like_a_token
from jobs.database.outages import first_line, is_outage
from jobs.ledger import audit, keys
from lit_spec.answers.audit import Outcome
from lit_spec.scopes import Scope
from lit_spec.shown import shown

LOCAL_OWNER = "local"
SCHEME = "bearer"
SECURITY_SCHEME = "key"
"""In the OpenAPI document."""
OTHER_SITES = frozenset({"cross-site", "same-site"})
"""Values of Sec-Fetch-Site (W3C Fetch Metadata) in requests that another site's page causes."""
READING_METHODS = frozenset({"GET", "HEAD"})
_BEARER = HTTPBearer(
    scheme_name=SECURITY_SCHEME,
    description="An API key, or a token of the service's OpenID Connect issuer. The role is the scope that a route "
    "needs. Nothing is needed from this machine itself while the service has no keys.",
    auto_error=False,
)

log = structlog.get_logger()


async def check_caller(request: Request, context: Context) -> Caller:
    """The caller; only one with a key learns what is wrong with the path or the parameters.

    Raises Problem 401, 403, 404, 422 or 503.
    """
    caller = await _authenticate(request, context)
    _note_actor(caller)
    await _check_scope(request, context, caller)
    check_address(request)
    request.state.caller = caller
    return caller


async def _authenticate(request: Request, context: Context) -> Caller:
    """Raises Problem 401, 403 or 503."""
    header = request.headers.get("Authorization")
    secret = None if header is None else _secret_in(header)
    caller = context.callers.find(secret) or await _find(secret, context)
    if secret is None:
        refuse_browsers_of_others(request)
    return caller


def _secret_in(header: str) -> str:
    """The key or token in a header Authorization. Raises Problem 401."""
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != SCHEME:
        raise _unknown_key()
    return secret.strip()


def known_caller(header: str, context: Context) -> Caller | None:
    """The caller who sends this header Authorization, if it is known without asking anybody."""
    scheme, _, secret = header.partition(" ")
    return context.callers.find(secret.strip()) if scheme.lower() == SCHEME else None


async def _find(secret: str | None, context: Context) -> Caller:
    """Raises Problem 401 or 503."""
    with context.callers.finding(secret) as finding:
        if secret is None:
            await run_in_threadpool(_require_no_keys, context)
            caller, seconds = Caller(LOCAL_OWNER, frozenset(Scope)), None
        elif context.tokens is not None and looks_like_a_token(secret):
            # Without a session and without a thread: the issuer may have to be asked for its keys.
            found = await context.tokens.verify(secret)
            caller = Caller(found.owner, found.scopes, subject=found.subject, expires_at=found.expires_at)
            lives = (found.expires_at - datetime.now(UTC)).total_seconds()
            seconds = min(lives, context.tokens.fresh_seconds)
        else:
            caller, seconds = await run_in_threadpool(_by_key, secret, context)
        finding.keep(caller, seconds)
    return caller


def _require_no_keys(context: Context) -> None:
    """Raises Problem 401 unless this service serves requests without a key."""
    open_to_all = context.keyless and context.tokens is None
    if open_to_all:
        # In its own session, as in `_by_key`: a request may wait for long and must not occupy a connection meanwhile.
        with context.database.reading() as session:
            open_to_all = not keys.any_keys(session)
    if not open_to_all:
        raise unauthorized("send an API key as `Authorization: Bearer lit_…`; `litc keys create NAME` makes one")


def _by_key(secret: str, context: Context) -> tuple[Caller, float | None]:
    """The caller, and for how many seconds the key is still valid; None: without an end."""
    with context.database.reading() as session:
        key = keys.authenticate(session, secret)
    if key is None:
        raise _unknown_key()
    if key.expired:
        raise unauthorized(f"the API key {key.id} has expired: use another, or ask an administrator to make one")
    if key.use_unrecorded:
        _record_use(context, key.id)
    return Caller(key.owner, key.scopes, key.id, key.name, expires_at=key.expires_at), key.seconds_left


def _record_use(context: Context, key_id: str) -> None:
    """A full disk of the database, or a database that can only be read, must not keep anybody from reading."""
    try:
        with context.database.session() as session:
            keys.record_use(session, key_id)
    except SQLAlchemyError as failure:
        if not is_outage(failure):
            raise
        log.info("use of a key not recorded", key=key_id, error=first_line(failure))


def _note_actor(caller: Caller) -> None:
    """Tell the audit log who acts in this request."""
    actor = audit.current_actor()
    actor.owner, actor.key_id, actor.subject = caller.owner, caller.key_id, caller.subject


async def _check_scope(request: Request, context: Context, caller: Caller) -> None:
    needed = scope_of(request.scope["route"], request.method)
    if needed in caller.scopes:
        return
    if needed is not Scope.READ:
        await run_in_threadpool(_record_denial, request, context)
    raise Problem(
        403,
        "insufficient-scope",
        f"the request needs the scope {needed.value}: use a key or token that has it",
        # RFC 6750, section 3
        headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed.value}"'},
    )


def scope_of(route: APIRoute, method: str) -> Scope:
    """The scope that a request needs: by its method, except for the routes of administrators."""
    if any(dependency.dependency is _administers for dependency in route.dependencies):
        return Scope.ADMIN
    return Scope.READ if method in READING_METHODS else Scope.SUBMIT


def _record_denial(request: Request, context: Context) -> None:
    with context.database.session() as session:
        detail = {"method": request.method, "path": shown(request.scope["path"])}
        audit.record(session, "request.deny", None, detail=detail, outcome=Outcome.DENIED)


_Documented = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


async def _get_caller(request: Request, _documented: _Documented) -> Caller:
    known: Caller | None = getattr(request.state, "caller", None)
    return await check_caller(request, get_context(request)) if known is None else known


InCaller = Annotated[Caller, Depends(_get_caller)]
"""The caller of the request. Routes with a body have already found it, before they read the body."""


async def _administers(_caller: InCaller) -> None:
    """`scope_of` looks for it, so that the scope of a route with a body is checked before the body is read."""


ADMIN = Depends(_administers)
"""Among the `dependencies` of a route or a router: it needs the scope `admin`."""


async def _get_owner(request: Request, documented: _Documented) -> str:
    # Not by way of `InCaller`: FastAPI takes as long for each dependency of a dependency as for a small request.
    return (await _get_caller(request, documented)).owner


Owner = Annotated[str, Depends(_get_owner)]
"""The owner of the request."""


def unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def _unknown_key() -> Problem:
    return unauthorized("this is not an API key of this service, or it was revoked: check the key")


def refuse_browsers_of_others(request: Request) -> None:
    """Refuse requests of web pages from elsewhere, which reach this service through a browser on this machine.

    If the page's name resolves to this machine, the browser sends that name as Host; otherwise it sends an Origin, or
    says in Sec-Fetch-Site that another site's page asks.
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
    if (site := request.headers.get("Sec-Fetch-Site")) in OTHER_SITES:
        raise Problem(
            403,
            "forbidden-origin",
            f"without API keys, no page of another site may use this service (Sec-Fetch-Site is {site}): make a key "
            "(`litc keys create NAME`)",
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
