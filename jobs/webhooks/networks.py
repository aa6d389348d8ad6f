"""Which addresses are public, and which other networks the operator allows webhooks to reach.

The service posts to URLs that its users choose, so without these rules they could reach what only the service's own
network can (server-side request forgery).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_ALLOCATED = IPv6Network("2000::/3")
"""Where all public IPv6 addresses lie. Most that embed an IPv4 address lie elsewhere: mapped ones, those of NAT64, …"""
# Beyond what `ipaddress` knows not to be global.
_REFUSED: Sequence[Network] = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # behind carrier-grade NAT
        "168.63.129.16/32",  # Azure's host, reached from its virtual machines
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.88.99.0/24",  # relays of 6to4
        "198.18.0.0/15",
        "240.0.0.0/4",
        "2001::/23",  # protocol assignments; Teredo, which embeds IPv4
        "2002::/16",  # 6to4, which embeds IPv4
        "3fff::/20",  # documentation
    )
]
_ISATAP = {0x00005EFE, 0x02005EFE}
"""The upper half of an interface identifier that embeds an IPv4 address (RFC 5214)."""


@dataclass(frozen=True)
class AllowedNetworks:
    """The networks of `LIT_WEBHOOK_ALLOWED_NETWORKS`."""

    networks: Sequence[Network] = ()

    @classmethod
    def parse(cls, setting: str | None) -> AllowedNetworks:
        """From networks in CIDR notation, separated by commas. Raises ValueError."""
        found = []
        for part in filter(None, (part.strip() for part in (setting or "").split(","))):
            try:
                found.append(ipaddress.ip_network(part))
            except ValueError as wrong:
                raise ValueError(f"{part!r} is not a network: give networks such as 10.0.0.0/8, with commas") from wrong
        return cls(found)

    def __contains__(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet, and not one that embeds or translates to another one."""
    if not address.is_global or address.is_multicast or any(address in network for network in _REFUSED):
        return False
    return address.version == 4 or (address in _ALLOCATED and (int(address) >> 32) & 0xFFFFFFFF not in _ISATAP)


def plain(address: Address) -> Address:
    """The IPv4 address that the kernel connects to for ::ffff:a.b.c.d; any other address as it is."""
    return (address.version == 6 and address.ipv4_mapped) or address
