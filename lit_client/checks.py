"""What `litc doctor` looks at from the client's side: address, service, versions, key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version

import httpx

from lit_client.errors import KEY_VARIABLE, LitError, ProblemError
from lit_client.models import Me
from lit_client.synchronous.client import Client

NOT_FOUND, UNAUTHORIZED = 404, 401
SOON = timedelta(days=7)


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, but not all of it, or not as one would expect."""
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    """What was found."""
    advice: str = ""
    """What to do, unless it is fine."""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def own_version() -> str:
    """The version of this package."""
    try:
        return version("lit-compress")
    except PackageNotFoundError:
        return "unknown"


def check_client(client: Client, has_key: bool) -> Iterator[Check]:
    """Look at a service. What depends on a check that failed is left out."""
    try:
        theirs = client.service_version()
    except LitError as failure:
        first, _, rest = str(failure).partition("\n")
        yield Check("service", Status.FAIL, first, rest or "check the address (LIT_URL, --url)")
        return
    yield Check("service", Status.OK, f"{client.base_url} answers")
    yield _versions(own_version(), theirs)
    yield _ready(client)
    yield from _key(client, has_key)


def _versions(ours: str, theirs: str) -> Check:
    if ours == theirs:
        return Check("version", Status.OK, f"{ours}, both of the command and of the service")
    detail = f"the command has {ours}, the service {theirs}"
    return Check("version", Status.WARN, detail, "install the same version if a command is refused")


def _ready(client: Client) -> Check:
    try:
        response = client.readiness()
    except httpx.TransportError as failure:
        return Check("ready", Status.FAIL, f"no answer ({type(failure).__name__})", "look at the log of `litc serve`")
    if response.is_success:
        return Check("ready", Status.OK, "database, broker and storage can be used")
    return Check("ready", Status.FAIL, str(ProblemError.from_response(response)), "look at the service's log")


def _key(client: Client, has_key: bool) -> Iterator[Check]:
    try:
        me = _me(client)
    except ProblemError as problem:
        if problem.status != UNAUTHORIZED:
            yield Check("key", Status.FAIL, str(problem), "ask the operator of the service")
            return
        first, _, rest = str(problem).partition("\n")
        yield Check("key", Status.FAIL, first, rest)
        return
    if me is None:
        yield Check("key", Status.OK, "valid" if has_key else "the service needs none")
        return
    yield _valid(me, has_key)
    yield _scopes([scope.value for scope in me.scopes])


def _valid(me: Me, has_key: bool) -> Check:
    if not has_key:
        return Check("key", Status.OK, "the service needs none")
    detail = f"valid, owner {me.owner}" + (f", key {me.key.name}" if me.key is not None else "")
    if me.expires_at is None:
        return Check("key", Status.OK, detail)
    detail += f", until {me.expires_at.astimezone():%Y-%m-%d %H:%M}"
    # A token of an issuer is always short-lived.
    if me.key is None or me.expires_at - datetime.now(UTC) > SOON:
        return Check("key", Status.OK, detail)
    return Check("key", Status.WARN, detail, "ask for a new one: litc keys rotate gives the service's operator one")


def _me(client: Client) -> Me | None:
    """None from a service that has no `/v1/me`. Raises ProblemError where the key is wrong."""
    try:
        return client.me()
    except ProblemError as problem:
        if problem.status != NOT_FOUND:
            raise
        next(client.jobs(limit=1), None)
        return None


def _scopes(scopes: list[str]) -> Check:
    if "submit" in scopes or "admin" in scopes:
        return Check("scopes", Status.OK, ", ".join(scopes))
    advice = f"to send jobs, set {KEY_VARIABLE} to a key with the scope submit"
    return Check("scopes", Status.WARN, ", ".join(scopes) or "none", advice)
