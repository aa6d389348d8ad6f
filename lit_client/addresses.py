"""Addresses of a service and of the things in it, and what a header can carry."""

from __future__ import annotations

import ipaddress
from urllib.parse import quote

import httpx

from lit_client.errors import InvalidAddress, InvalidKey

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "LIT_URL"
# A URL with them as they are would mean another path (RFC 3986, section 5.2.4).
_DOTS = {".": "%2E", "..": "%2E%2E"}


def path_to(*parts: str) -> str:
    """The path /v1/… to a thing. An id, whatever it contains, is one part of the path."""
    return "/v1/" + "/".join(_DOTS.get(part) or quote(part, safe="") for part in parts)


def parse_key(key: str) -> str:
    """The key without the blanks and newlines that a file or a variable may add. Raises InvalidKey."""
    key = key.strip()
    if not fits_a_header(key):
        raise InvalidKey
    return key


def fits_a_header(text: str) -> bool:
    """Whether a header can have this value."""
    return text.isascii() and text.isprintable()


def parse_address(url: str) -> httpx.URL:
    """Raises InvalidAddress."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidAddress(url, str(error)) from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise InvalidAddress(url, "it must begin with http:// or https:// and a host")
    if address.port is not None and not 0 < address.port < 1 << 16:
        raise InvalidAddress(url, "its port must be from 1 to 65535")
    return address


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
