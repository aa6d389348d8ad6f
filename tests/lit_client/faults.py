"""A transport that passes requests on to a real service, and breaks those that a test says."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import httpx

OFFSET = "Upload-Offset"
SECONDS_TO_READ = 0.1


@dataclass
class Fault:
    """What happens to one request; one of these."""

    refused: httpx.TransportError | KeyboardInterrupt | None = None
    """Raised before anything is sent."""
    cut_after: int | None = None
    """The connection breaks after so many bytes of the request's body."""
    lost: httpx.TransportError | KeyboardInterrupt | None = None
    """The service handles the request, and this is raised in place of its answer."""
    answer: httpx.Response | None = None
    """Something in front of the service answers."""
    cut_answer_after: int | None = None
    """The connection breaks after so many bytes of the answer's body."""


def lost_answer() -> Fault:
    return Fault(lost=httpx.ReadError("connection reset by peer"))


def busy(status: int = 503, retry_after: str | None = None) -> Fault:
    """A proxy's answer while the service restarts, or the service's own under load."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    problem = {"type": "/problems/busy", "title": "Busy", "status": status, "detail": "Not now."}
    return Fault(answer=httpx.Response(status, headers=headers, json=problem))


class FaultyTransport(httpx.BaseTransport):
    """`faults[method]` is used up request by request; None lets one through."""

    def __init__(self) -> None:
        self._service = httpx.HTTPTransport()
        self.faults: defaultdict[str, deque[Fault | None]] = defaultdict(deque)
        self.requests: list[httpx.Request] = []
        self.dropped_headers: set[str] = set()
        """Headers that never reach the service."""
        self.sent_bytes = 0
        """Of the bodies of PATCH requests that arrived whole."""
        self.told_offset = 0
        """`Upload-Offset` of the service's newest answer that has one."""
        self.unasked = 0
        """Pieces that began elsewhere than the service had said."""
        self.received_bytes = 0
        """Of the bodies of files, what reached the client."""

    def close(self) -> None:
        self._service.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if OFFSET in request.headers and int(request.headers[OFFSET]) != self.told_offset:
            self.unasked += 1
        fault = (self.faults[request.method].popleft() if self.faults[request.method] else None) or Fault()
        if fault.refused is not None:
            raise fault.refused
        if fault.answer is not None:
            return fault.answer
        if fault.cut_after is not None:
            self._cut(request, fault.cut_after)
        for name in self.dropped_headers:
            request.headers.pop(name, None)
        response = self._service.handle_request(request)
        if OFFSET in request.headers:
            self.sent_bytes += len(request.read())
        if OFFSET in response.headers:
            self.told_offset = int(response.headers[OFFSET])
        if fault.lost is not None:
            response.read()
            raise fault.lost
        return self._passed_on(request, response, fault.cut_answer_after)

    def count(self, method: str, part: str) -> int:
        return sum(request.method == method and part in str(request.url) for request in self.requests)

    def _cut(self, request: httpx.Request, after: int) -> NoReturn:
        """Send the beginning of an upload's piece. The service needs a moment to read it, and one to notice the end."""
        broken = httpx.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=_Cut(httpx.ByteStream(request.read()), after, pause=SECONDS_TO_READ),
            extensions=request.extensions,
        )
        try:
            self._service.handle_request(broken)
        except httpx.ReadError:
            time.sleep(SECONDS_TO_READ)
            raise
        raise AssertionError("the service answered before it had the whole piece")

    def _passed_on(self, request: httpx.Request, response: httpx.Response, cut_after: int | None) -> httpx.Response:
        assert isinstance(response.stream, httpx.SyncByteStream)
        is_file = "/artifacts/" in request.url.path
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Cut(response.stream, cut_after, self._count if is_file else None),
            extensions=response.extensions,
        )

    def _count(self, received: int) -> None:
        self.received_bytes += received


class _Cut(httpx.SyncByteStream):
    """A stream that ends in a broken connection after so many bytes; None: that is whole."""

    def __init__(
        self,
        source: httpx.SyncByteStream,
        after: int | None,
        count: Callable[[int], None] | None = None,
        pause: float = 0.0,
    ) -> None:
        self._source = source
        self._after = after
        self._count = count
        self._pause = pause

    def __iter__(self) -> Iterator[bytes]:
        left = self._after
        for whole in self._source:
            piece = whole[:left]
            if self._count is not None:
                self._count(len(piece))
            yield piece
            if left is not None:
                left -= len(piece)
                if left == 0:
                    time.sleep(self._pause)
                    raise httpx.ReadError("connection reset by peer")

    def close(self) -> None:
        self._source.close()
