"""The addresses of receivers: public ones, and those in networks that the operator allows.

Names are resolved once, and the connection goes to an address that was checked: a name that resolves differently the
next time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from jobs.webhooks.networks import Address, AllowedNetworks, is_public, plain
from jobs.webhooks.urls import ReceiverUrl

Resolve = Callable[[str], Sequence[str]]
"""The addresses of a host name. It blocks, and raises OSError if there are none."""

RESOLVE_SECONDS = 5.0
MOST_ADDRESSES = 32

# Lookups may hang for long, so they get threads of their own.
_LOOKUPS = ThreadPoolExecutor(16, thread_name_prefix="webhook-lookups")


class AddressRefused(ValueError):
    """The receiver has no address that may be reached. The message says why, for its owner."""


def resolve(host: str) -> list[str]:
    """By the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Receivers:
    """Finds the addresses of receivers, and refuses those that may not be reached."""

    def __init__(self, allowed: AllowedNetworks, resolve: Resolve = resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve

    async def addresses(self, url: ReceiverUrl) -> list[Address]:
        """The addresses to connect to, all of them checked. Raises AddressRefused."""
        found = [plain(address) for address in await self._look_up(url.host)]
        for address in found:
            if address in self._allowed:
                continue
            if not is_public(address):
                # Not the address of a name: it would tell what the service's own network looks like.
                which = "it" if url.is_address else f"an address of {url.host}"
                raise AddressRefused(
                    f"{which} is not public: give a public receiver, or let the operator add its network to "
                    "LIT_WEBHOOK_ALLOWED_NETWORKS"
                )
            if url.scheme != "https":
                raise AddressRefused("http is only for networks in LIT_WEBHOOK_ALLOWED_NETWORKS: use https")
        return found

    async def _look_up(self, host: str) -> list[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                names = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, self._resolve, host)
        except TimeoutError as slow:
            raise AddressRefused(
                f"the name {host} was not resolved within {RESOLVE_SECONDS:.0f} s: try again"
            ) from slow
        except (OSError, UnicodeError) as unknown:
            raise AddressRefused(f"the name {host} has no address: check it") from unknown
        if not names:
            raise AddressRefused(f"the name {host} has no address: check it")
        return [ipaddress.ip_address(name) for name in names[:MOST_ADDRESSES]]
