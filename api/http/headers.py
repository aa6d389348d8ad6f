"""The headers of requests, checked before a route reads them, and those for browsers that every answer has."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import Problem

ONCE = frozenset(
    {
        b"host",
        b"authorization",
        b"content-type",
        b"idempotency-key",
        b"if-range",
        b"last-event-id",
        b"origin",
        b"range",
        b"upload-offset",
    }
)
"""Headers with a single value. Which of two values counts would depend on who reads the request."""
LISTS = frozenset({b"accept", b"if-match", b"if-none-match"})
"""Headers that are lists. Several lines are one list (RFC 9110, section 5.3), but FastAPI reads only one of them."""

FOR_BROWSERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""No answer may be framed, guessed at, or used by a page from elsewhere. Pages have wider policies of their own."""
DOCS = "/docs"
DOCS_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Of Swagger UI, whose page starts it from a script in the HTML."""

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[(?P<address>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{0,5}))?")


class BrowserHeaders:
    """ASGI middleware: adds FOR_BROWSERS to each answer; what an answer has already stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_missing(message, _for_browsers(scope["path"]))
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


_OF_ANSWERS = _raw(FOR_BROWSERS)
_OF_DOCS = _raw(FOR_BROWSERS | {"Content-Security-Policy": DOCS_POLICY})


def _for_browsers(path: str) -> list[tuple[bytes, bytes]]:
    return _OF_DOCS if path == DOCS or path.startswith(f"{DOCS}/") else _OF_ANSWERS


def _add_missing(message: Message, headers: list[tuple[bytes, bytes]]) -> None:
    # An ASGI application sends the names of headers in lower case.
    there = dict(message["headers"])
    message["headers"] = [*message["headers"], *[header for header in headers if header[0] not in there]]


class HeaderChecks:
    """ASGI middleware: answers a request with bad headers with a problem.

    The others lose the blanks around their values, which are no part of them (RFC 9110, section 5.5), and headers
    without a meaning. The lines of a list become one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        values = dict(scope["headers"])
        # Most requests have no header twice, and counting takes as long as all the other checks.
        times = Counter(name for name, _ in scope["headers"]) if len(values) < len(scope["headers"]) else {}
        problem = _find_problem(scope, values.get(b"host"), times)
        if problem is not None:
            await problem.response()(scope, receive, send)
            return
        if b"range" in values and scope["method"] != "GET":
            # Range has a meaning for GET only (RFC 9110, section 14.2).
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"range"]
        if times:
            _join_lists(scope, times)
        await self._app(scope, receive, send)


@lru_cache(1000)
def host_name(host: str) -> str | None:
    """The name or address in a Host header, in lower case; None if it isn't `name`, `name:port` or `[address]:port`."""
    match = _HOST.fullmatch(host)
    if match is None or int(match["port"] or 0) > 65_535:
        return None
    if match["address"] is None:
        return match["name"].lower()
    try:
        return str(ipaddress.IPv6Address(match["address"]))
    except ValueError:
        return None


def _join_lists(scope: Scope, times: Mapping[bytes, int]) -> None:
    for list_name in LISTS:
        if times.get(list_name, 0) > 1:
            lines = [value for name, value in scope["headers"] if name == list_name]
            others = [(name, value) for name, value in scope["headers"] if name != list_name]
            scope["headers"] = [*others, (list_name, b", ".join(lines))]


def _find_problem(scope: Scope, sent_host: bytes | None, times: Mapping[bytes, int]) -> Problem | None:
    """`times`: how often each header comes; empty if none comes twice."""
    for name, count in times.items():
        if count > 1 and name in ONCE:
            return Problem(400, "bad-request", f"the header {name.decode()} comes {count} times: send it once")
    if sent_host is None:
        # HTTP/1.0 has no Host (RFC 9112, section 3.2).
        if scope.get("http_version", "1.1") == "1.0":
            return None
        return Problem(400, "bad-request", "the request has no Host header: send the name of this service as Host")
    host = sent_host.decode("latin-1")
    if host_name(host) is None:
        return Problem(400, "bad-request", f"Host is {host!r}: send one name or address, and a port if it needs one")
    return None
