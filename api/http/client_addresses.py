"""The address from which a request comes, as the log and the audit log show it."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from starlette.types import Scope

LONGEST = 45
"""Of an IP address in text."""


def client_address(scope: Scope) -> str | None:
    """The IP address, without an IPv6 zone; None if there is none. Behind a proxy it comes from a header."""
    client = scope.get("client")
    return None if client is None else _checked(str(client[0]))


@lru_cache(1000)
def _checked(host: str) -> str | None:
    given = host.partition("%")[0]
    if len(given) > LONGEST:
        return None
    try:
        return str(ipaddress.ip_address(given))
    except ValueError:
        return None
