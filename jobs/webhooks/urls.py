"""The URLs of receivers: how they must look. What they resolve to is checked by `jobs.webhooks.addresses`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import httpx

SCHEMES = {"https": 443, "http": 80}
FIRST_FREE_PORT = 1024


@dataclass(frozen=True)
class ReceiverUrl:
    """A checked URL, in ASCII."""

    scheme: str
    host: str
    """In lower case and without a trailing dot; an IPv6 address without brackets."""
    port: int | None
    """None: the scheme's."""
    target: str
    """Path and query."""

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address rather than a name."""
        return _is_address(self.host)

    @property
    def authority(self) -> str:
        """As in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def at(self, address: str) -> str:
        """The same URL with an address in place of the host."""
        host = f"[{address}]" if ":" in address else address
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def read_url(text: str) -> ReceiverUrl:
    """Parse the URL of a receiver. Raises ValueError, with a message for its owner."""
    if re.search(r"[\s\\]", text):
        raise ValueError("must not contain spaces or backslashes: encode them")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as wrong:
        raise ValueError("is not a URL: give one such as https://hooks.example.com/lit") from wrong
    if url.scheme not in SCHEMES or not url.host:
        raise ValueError("must begin with https:// and a host")
    if url.userinfo:
        raise ValueError("must not contain a user or password: check the signature of messages instead")
    if url.fragment:
        raise ValueError("must not contain a fragment: leave out # and what follows")
    return ReceiverUrl(url.scheme, _host(url), _port(url), url.raw_path.decode("ascii"))


def _host(url: httpx.URL) -> str:
    # As sent: names in other scripts in their ASCII form (RFC 5891).
    host = url.raw_host.decode("ascii").lower().removesuffix(".")
    if _is_address(host):
        return host
    labels = host.split(".")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
        # Resolvers read 127.1, 0x7f000001 and 2130706433 as addresses.
        raise ValueError("has a host that is neither a name nor an IP address: write the address in full")
    if len(host) > 253 or not all(re.fullmatch(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", label) for label in labels):
        raise ValueError("has a host that is not a name: check it")
    return host


def _port(url: httpx.URL) -> int | None:
    port = url.port
    if port is None or port == SCHEMES[url.scheme]:
        return None
    if not FIRST_FREE_PORT <= port <= 65535 and port not in SCHEMES.values():
        raise ValueError(f"has the port {port}, which belongs to another service: use 443, 80 or one from 1024 on")
    return port


def _is_address(host: str) -> bool:
    try:
        return not getattr(ipaddress.ip_address(host), "scope_id", None)
    except ValueError:
        return False
