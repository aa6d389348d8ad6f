"""Bearer tokens of an OpenID Connect issuer (JWT, RFC 7519): who the caller is, and what they may do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from jwt.exceptions import ExpiredSignatureError, ImmatureSignatureError, InvalidTokenError, PyJWTError

from api.http.issuer import ALGORITHMS, IssuerKeys
from api.http.problems import Problem
from jobs.settings import Settings, scopes_by_role
from lit_spec.requests.access import LONGEST_OWNER
from lit_spec.scopes import Scope, with_included

LEEWAY_SECONDS = 30
"""How much the clocks of issuer and service may differ."""
LONGEST_TOKEN = 16 << 10
LONGEST_SUBJECT = 255
"""OpenID Connect Core, section 2. The audit log holds it."""
EVERYBODY = "*"
RESERVED_OWNERS = re.compile(r"local|key_.*")
"""Owners that the service itself gives out, which no token may name."""

_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
_OWNER = re.compile(rf"[!-~]{{1,{LONGEST_OWNER}}}")


@dataclass(frozen=True)
class Verified:
    """What a valid token says."""

    owner: str
    subject: str
    scopes: frozenset[Scope]
    expires_at: datetime


def looks_like_a_token(secret: str) -> bool:
    """Whether it has the form of a JWT. No API key has."""
    return _TOKEN.fullmatch(secret) is not None


class Tokens:
    """Checks tokens of the issuer that the settings name."""

    def __init__(self, issuer: str, audience: str, settings: Settings) -> None:
        self._issuer = issuer
        self._audience = audience
        self._owner_claim = settings.oidc_owner_claim
        self._scope_claim = settings.oidc_scope_claim
        self._roles = scopes_by_role(settings.oidc_scopes)
        self._keys = IssuerKeys(issuer)

    async def close(self) -> None:
        await self._keys.close()

    @property
    def fresh_seconds(self) -> float:
        """For how long a token that is valid now need not be checked again, for as long as it lives."""
        return self._keys.fresh_seconds

    async def verify(self, token: str) -> Verified:
        """Raises Problem 401, and 503 if the issuer's keys are needed and can't be fetched."""
        claims = await self._claims(token)
        subject = claims["sub"]
        if len(subject) > LONGEST_SUBJECT or not subject.isprintable():
            raise _refused(f"its claim sub is not printable text of at most {LONGEST_SUBJECT} characters")
        return Verified(
            owner=self._owner(claims),
            subject=subject,
            scopes=self._scopes(claims),
            expires_at=_as_time(claims["exp"]),
        )

    async def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > LONGEST_TOKEN:
            raise _refused(f"it is longer than {LONGEST_TOKEN} characters")
        try:
            header = jwt.get_unverified_header(token)
        except PyJWTError as bad:
            raise _refused("it is not a JWT") from bad
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise _refused(f"it is signed with {algorithm!r}, and only {', '.join(sorted(ALGORITHMS))} are accepted")
        key = await self._keys.find(header.get("kid"), algorithm)
        if key is None:
            raise _refused("it is not signed with a key of the issuer")
        try:
            return jwt.decode(
                token,
                key,
                algorithms=sorted(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except ExpiredSignatureError as late:
            raise _refused("it has expired") from late
        except ImmatureSignatureError as early:
            raise _refused("it is not valid yet") from early
        except (InvalidTokenError, PyJWTError) as bad:
            raise _refused(str(bad)) from bad

    def _owner(self, claims: dict[str, Any]) -> str:
        found = _claim(claims, self._owner_claim)
        if isinstance(found, list) and len(found) == 1:
            [found] = found
        if not isinstance(found, str) or not _OWNER.fullmatch(found):
            raise _refused(f"its claim {self._owner_claim} is not the name of one owner")
        if RESERVED_OWNERS.fullmatch(found):
            raise _refused(f"its claim {self._owner_claim} names the owner {found}, which no token may name")
        return found

    def _scopes(self, claims: dict[str, Any]) -> frozenset[Scope]:
        roles = [EVERYBODY, *_words(_claim(claims, self._scope_claim))]
        return with_included(scope for role in roles for scope in self._roles.get(role, ()))


def open_tokens(settings: Settings) -> Tokens | None:
    """None if the settings name no issuer."""
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        return None
    return Tokens(settings.oidc_issuer, settings.oidc_audience, settings)


def _claim(claims: dict[str, Any], name: str) -> Any:
    """A claim by its own name, or else by the names on the way to it, as in `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _words(claim: Any) -> Iterable[str]:
    if isinstance(claim, str):
        return claim.split()
    return [role for role in claim if isinstance(role, str)] if isinstance(claim, list) else []


def _as_time(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _refused(reason: str) -> Problem:
    headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return Problem(401, "unauthorized", f"the token is not accepted: {reason}; get a new one", headers=headers)
