"""The id of a request: the caller's `X-Request-Id` if it can be logged as it is, else a new one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar

from jobs.ids import new_id

HEADER = "X-Request-Id"
_SANE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:+/=@-]{0,99}")

_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def current_request_id() -> str | None:
    """The id of the request that this code works for, in threads of the request too. None outside of a request."""
    return _current.get()


def begin_request(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id of a request with these headers, which is the current one from now on."""
    sent = [value.strip(b" \t") for name, value in headers if name == b"x-request-id"]
    sane = len(sent) == 1 and _SANE.fullmatch(sent[0]) is not None
    request_id = sent[0].decode() if sane else new_id("req")
    _current.set(request_id)
    return request_id
