"""Who sends a request, and those who were found lately, so that not every request asks the ledger for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from jobs.database.notifications import Listener
from jobs.database.notified_cache import NotifiedCache, Reading
from jobs.ledger.keys import KEYS_TOPIC, USE_RECORDED_EVERY
from lit_spec.scopes import Scope

KNOWN_SECONDS = USE_RECORDED_EVERY.total_seconds()
"""Then the ledger is asked again, so that it learns that the key is still in use."""
MOST_CALLERS = 10_000
NO_SECRET = b""
"""Stands for those who send none, to a service without keys."""


@dataclass(frozen=True)
class Caller:
    """Who sends a request, and what they may do."""

    owner: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    key_name: str | None = None
    subject: str | None = None
    """`sub` of a bearer token."""
    expires_at: datetime | None = None
    """Of the key or the token."""


class KnownCallers:
    """Callers by their secret. A key that is changed or revoked, or the first key, empties it.

    Secrets are kept as hashes. While nobody tells this process of changes, it knows nobody.
    """

    def __init__(self, listener: Listener) -> None:
        self._cache: NotifiedCache[bytes, Caller] = NotifiedCache(listener, MOST_CALLERS)

    def find(self, secret: str | None) -> Caller | None:
        """The caller who sends this secret, or none; None: the ledger or the issuer must be asked."""
        return self._cache.get(_digest(secret))

    @contextmanager
    def finding(self, secret: str | None) -> Iterator[Finding]:
        """Around a look into the ledger, or a check of a token; `keep` whom it found."""
        with self._cache.reading(KEYS_TOPIC) as reading:
            yield Finding(_digest(secret), reading)

    def forget(self) -> None:
        """This process has changed a key: its next request must see that, whenever the notification comes."""
        self._cache.changed(KEYS_TOPIC)


@dataclass(frozen=True)
class Finding:
    _digest: bytes
    _reading: Reading[bytes, Caller]

    def keep(self, caller: Caller, seconds: float | None) -> None:
        """`seconds`: for how long the secret was still valid when the look began. None: no end is known."""
        self._reading.keep(self._digest, caller, KNOWN_SECONDS if seconds is None else min(seconds, KNOWN_SECONDS))


def _digest(secret: str | None) -> bytes:
    return NO_SECRET if secret is None else hashlib.sha256(secret.encode()).digest()
