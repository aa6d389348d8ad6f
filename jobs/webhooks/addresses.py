"""The addresses of receivers: public ones, and those in networks that the operator allows.

Names are resolved once, and the connection goes to an address that was checked: a name that resolves differently the
next time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress

from jobs.webhooks.lookups import RESOLVE_SECONDS, Lookups, Resolve, SlowLookup, resolve
from jobs.webhooks.networks import Address, AllowedNetworks, is_public, plain
from jobs.webhooks.urls import ReceiverUrl

MOST_ADDRESSES = 32


class AddressRefused(ValueError):
    """The receiver has no address that may be reached. The message says why, for its owner."""


class Receivers:
    """Finds the addresses of receivers, and refuses those that may not be reached. Each has threads of its own for
    lookups.
    """

    def __init__(self, allowed: AllowedNetworks, resolve: Resolve = resolve) -> None:
        self._allowed = allowed
        self._lookups = Lookups(resolve)

    async def addresses(self, url: ReceiverUrl, owner: str) -> list[Address]:
        """The addresses to connect to, all of them checked, for a webhook of `owner`.

        Raises AddressRefused, and LookupsBusy if the service could not ask.
        """
        found = [plain(address) for address in await self._look_up(owner, url.host)]
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

    async def _look_up(self, owner: str, host: str) -> list[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass
        try:
            names = await self._lookups.look_up(owner, host)
        except SlowLookup as slow:
            raise AddressRefused(
                f"the name {host} was not resolved within {RESOLVE_SECONDS:.0f} s: try again"
            ) from slow
        except (OSError, UnicodeError) as unknown:
            raise AddressRefused(f"the name {host} has no address: check it") from unknown
        if not names:
            raise AddressRefused(f"the name {host} has no address: check it")
        return [ipaddress.ip_address(name) for name in names[:MOST_ADDRESSES]]
