"""The public keys of an OpenID Connect issuer: found through its discovery document, kept, and fetched again in time.

Everything is asynchronous: while the issuer is slow, no thread and no session is held, and API keys go on working.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import structlog
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from api.http.problems import Problem, unavailable
from jobs.settings import is_safe_address

ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
"""Only asymmetric ones: with a symmetric one, whoever can check a token could make it."""
DISCOVERY_PATH = "/.well-known/openid-configuration"
FETCH_SECONDS = 5.0
ANSWER_BYTES = 1 << 20
FRESH_SECONDS = 600.0
"""Keys are fetched again after this time, so that a key that the issuer withdraws is refused."""
USABLE_SECONDS = 3600.0
"""For so long keys are used while the issuer can't be reached."""
PAUSE_SECONDS = 5.0
"""Between two fetches. Otherwise anybody could make the service ask the issuer with each made-up key id."""

log = structlog.get_logger()


class IssuerUnreachable(Exception):
    """The issuer's keys could not be fetched. Says why, for the log."""


class IssuerKeys:
    """The keys of one issuer, for one event loop."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._keys: list[dict[str, Any]] = []
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._failed = False
        self._turn = asyncio.Lock()
        self._http = httpx.AsyncClient(timeout=FETCH_SECONDS, follow_redirects=False)

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def fresh_seconds(self) -> float:
        """For how long the keys need not be fetched again; 0 once they should have been."""
        return max(0.0, FRESH_SECONDS - self._age())

    async def find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """The key for a token with these headers; None if the issuer has no such key.

        Raises Problem 503 if the issuer can't be reached and no key is known that is still usable.
        """
        if self._age() > FRESH_SECONDS or self._lookup(key_id) is None:
            await self._refresh(key_id)
        if self._age() > USABLE_SECONDS:
            raise _out_of_reach()
        found = self._lookup(key_id)
        if found is None:
            if self._failed:
                raise _out_of_reach()  # it may be a new key
            return None
        try:
            return PyJWK(found, found.get("alg") or algorithm)
        except (PyJWTError, TypeError, ValueError):  # PyJWT takes the parts of a key on trust
            return None

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else time.monotonic() - self._fetched_at

    def _lookup(self, key_id: str | None) -> dict[str, Any] | None:
        if key_id is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.get("kid") == key_id), None)

    async def _refresh(self, key_id: str | None) -> None:
        """Fetch the keys, unless another request has done so while this one waited, or a moment ago."""
        async with self._turn:
            if self._age() <= FRESH_SECONDS and self._lookup(key_id) is not None:
                return
            if self._tried_at is not None and time.monotonic() - self._tried_at < PAUSE_SECONDS:
                return
            try:
                async with asyncio.timeout(FETCH_SECONDS):
                    self._keys = await self.fetch()
            except (IssuerUnreachable, httpx.HTTPError, httpx.InvalidURL, TimeoutError) as failure:
                self._failed = True
                log.warning("issuer's keys not fetched", issuer=self._issuer, error=str(failure) or repr(failure))
            else:
                self._failed = False
                self._fetched_at = time.monotonic()
            finally:
                self._tried_at = time.monotonic()

    async def fetch(self) -> list[dict[str, Any]]:
        """Those for signatures, from the issuer itself. Raises IssuerUnreachable, httpx.HTTPError, httpx.InvalidURL."""
        discovery = await self._get(self._issuer.rstrip("/") + DISCOVERY_PATH)
        if discovery.get("issuer") != self._issuer:
            raise IssuerUnreachable(f"its discovery document is of another issuer: {discovery.get('issuer')!r}")
        address = discovery.get("jwks_uri")
        if not isinstance(address, str) or not is_safe_address(address):
            raise IssuerUnreachable(f"its jwks_uri is not an https:// address: {address!r}")
        keys = (await self._get(address)).get("keys")
        if not isinstance(keys, list):
            raise IssuerUnreachable("its key set has no keys")
        return [key for key in keys if isinstance(key, dict) and _is_for_signatures(key)]

    async def _get(self, address: str) -> dict[str, Any]:
        content = bytearray()
        async with self._http.stream("GET", address, headers={"Accept": "application/json"}) as answer:
            if answer.status_code != httpx.codes.OK:
                raise IssuerUnreachable(f"{address} answers {answer.status_code}")
            async for chunk in answer.aiter_bytes():
                content += chunk
                if len(content) > ANSWER_BYTES:
                    raise IssuerUnreachable(f"{address} answers with more than {ANSWER_BYTES} bytes")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as bad:
            raise IssuerUnreachable(f"{address} does not answer with JSON") from bad
        if not isinstance(found, dict):
            raise IssuerUnreachable(f"{address} does not answer with a JSON object")
        return found


def _is_for_signatures(key: dict[str, Any]) -> bool:
    named = all(isinstance(key.get(name, ""), str) for name in ("kty", "alg", "kid"))
    return named and key.get("use", "sig") == "sig"


def _out_of_reach() -> Problem:
    return unavailable(
        "the issuer of tokens can't be reached, so this token can't be checked: try again, or use an API key",
        seconds=int(PAUSE_SECONDS),
    )
