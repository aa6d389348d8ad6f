"""What the calls share: lists page by page, requests that may be repeated, and long polls."""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from lit_client.addresses import fits_a_header
from lit_client.answers import parse
from lit_client.errors import WaitTimeout
from lit_client.models import Job, Page
from lit_client.synchronous.connection import Connection
from lit_client.synchronous.pages import paged
from lit_spec.answers.pages import ItemT

LONGEST_WAIT = 30
"""Seconds that the service holds an answer."""
LONG_POLL_SECONDS = float(LONGEST_WAIT)
# The least time between two long polls, in case a service answers them at once.
SHORTEST_POLL_SECONDS = 0.2
NOT_MODIFIED = 304


class Calls:
    """The base of the client's calls."""

    def __init__(self, connection: Connection, chunk_bytes: int) -> None:
        self._connection = connection
        self._chunk_bytes = chunk_bytes

    def _paged(
        self, model: type[Page[ItemT]], path: str, filters: Mapping[str, Any], limit: int | None
    ) -> Iterator[ItemT]:
        return paged(self._connection, model, path, filters, limit)

    def _get(self, path: str, *, wait: float | None = None, **options: Any) -> httpx.Response:
        seconds = _whole_seconds(wait or 0.0)
        if seconds:
            options["params"] = {**options.get("params", {}), "wait": seconds}
        return self._connection.request("GET", path, repeatable=True, wait=seconds, **options)

    def _post_job(self, path: str, body: Mapping[str, Any], key: str | None) -> Job:
        return parse(Job, self._post(path, body, key))

    def _post(self, path: str, body: Mapping[str, Any], key: str | None) -> httpx.Response:
        if key is not None and not (key and fits_a_header(key)):
            raise ValueError(f"idempotency_key is {key!r}: give 1 to 255 printable ASCII characters, or none")
        headers = {"Idempotency-Key": str(uuid.uuid4()) if key is None else key}
        # The service itself may wait for a teacher's inspection before it answers.
        return self._connection.request(
            "POST", path, repeatable=True, wait=LONG_POLL_SECONDS, json=dict(body), headers=headers
        )


def _whole_seconds(wait: float) -> int:
    """Whole seconds, as the service accepts them, and at most LONGEST_WAIT; a short wait is 1 s."""
    return min(max(1, round(wait)), LONGEST_WAIT) if wait > 0 else 0


def long_polls(timeout: float | None, what: str) -> Iterator[float]:
    """For each long poll, how many seconds the service may wait. Raises WaitTimeout when the time is up."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if end is not None and began >= end:
            raise WaitTimeout(f"{what} has not finished within {timeout:g} s.")
        yield LONG_POLL_SECONDS if end is None else min(LONG_POLL_SECONDS, end - began)
        time.sleep(max(0.0, SHORTEST_POLL_SECONDS - (time.monotonic() - began)))
