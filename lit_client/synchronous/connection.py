"""HTTP to one service: address, key, timeouts, and which requests may be repeated."""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from lit_client.addresses import DEFAULT_URL, URL_VARIABLE, is_loopback, parse_address, parse_key
from lit_client.errors import (
    KEY_VARIABLE,
    ProblemError,
    ServiceUnreachable,
)

# With these errors nothing was sent, so every request may be repeated.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
LONGEST_PAUSE = 8.0
# A proxy may ask to wait for an hour. A caller who wants to wait that long can catch the error.
LONGEST_RETRY_AFTER = 30.0


class Connection:
    """Sends requests. Requests that may be repeated are repeated after an error, with growing pauses.

    If the service has never answered yet, the first refused connection is an error: most often no service is running.
    A service that has answered before gets time to restart.
    """

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        *,
        retries: int,
        timeout: float,
        first_pause: float,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = (base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
        self.retries = retries
        self.timeout = timeout
        self._first_pause = first_pause
        self._reached = False
        key = parse_key(api_key or os.environ.get(KEY_VARIABLE) or "")
        address = parse_address(self.base_url)
        self._http = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=10.0),
            transport=transport,
            # A proxy from the environment can't reach this machine's own loopback.
            trust_env=not is_loopback(address.host),
        )

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool,
        accept: Collection[int] = (),
        wait: float = 0.0,
        **options: Any,
    ) -> httpx.Response:
        """Send and return the answer if its status is 2xx or in `accept`.

        `wait`: how many seconds the service itself may hold the request.
        Raises ProblemError for any other status, ServiceUnreachable when no answer comes.
        """
        for attempt in range(self.retries + 1):
            last = attempt == self.retries
            try:
                response = self.request_once(method, path, wait=wait, **options)
            except httpx.TransportError as error:
                if last or not self._may_repeat(error, repeatable):
                    raise self.unreachable(error) from error
                time.sleep(self.pause(attempt))
                continue
            if response.is_success or response.status_code in accept:
                return response
            problem = ProblemError.from_response(response)
            if last or not repeatable or not problem.temporary:
                raise problem
            time.sleep(min(problem.retry_after or self.pause(attempt), LONGEST_RETRY_AFTER))
        raise AssertionError("the last attempt returns or raises")

    def request_once(self, method: str, path: str, *, wait: float = 0.0, **options: Any) -> httpx.Response:
        """Send once and return the answer, with any status. Raises httpx.TransportError."""
        limits = httpx.Timeout(self.timeout, connect=10.0, read=self.timeout + wait)
        response = self._http.request(method, path, timeout=limits, **options)
        self._reached = True
        return response

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], *, presigned: bool = False, silence: float = 0.0
    ) -> Iterator[httpx.Response]:
        """One GET that is not repeated and whose body the caller reads.

        `presigned`: the service may answer with a redirect to its object store, which is not followed. `silence`: for
        how many seconds the service may have nothing to send.
        """
        options: dict[str, Any] = {"params": {"presigned": "true"}} if presigned else {"follow_redirects": True}
        limits = httpx.Timeout(self.timeout, connect=10.0, read=self.timeout + silence)
        with self._http.stream("GET", path, headers=dict(headers), timeout=limits, **options) as response:
            self._reached = True
            yield response

    def pause(self, failures: int) -> float:
        """Seconds to wait after the given number of earlier failures."""
        return float(min(self._first_pause * 2**failures, LONGEST_PAUSE))

    def unreachable(self, error: httpx.TransportError) -> ServiceUnreachable:
        """The error for a failed connection, which says what to do."""
        cause = str(error) or type(error).__name__
        if isinstance(error, NOT_SENT):
            return ServiceUnreachable(
                f"No LIT service answers at {self.base_url} ({cause}).\n"
                "Start one with `litc serve` in a checkout of the repository, or set "
                f"{URL_VARIABLE} (or --url) to the address of one that runs."
            )
        return ServiceUnreachable(f"The connection to {self.base_url} broke ({cause}): try again.")

    def _may_repeat(self, error: httpx.TransportError, repeatable: bool) -> bool:
        if isinstance(error, NOT_SENT):
            return self._reached
        return repeatable


def outside_client(seconds: float) -> httpx.Client:
    """For signed URLs of an object store: it sends no key. `seconds`: how long the store may be silent."""
    return httpx.Client(timeout=httpx.Timeout(seconds, connect=10.0), mounts=_no_proxy_for_loopback())


def _no_proxy_for_loopback() -> dict[str, httpx.BaseTransport | None]:
    return {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
