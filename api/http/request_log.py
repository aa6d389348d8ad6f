"""ASGI middleware: gives each request its id, writes one log line about it, and counts it for /metrics."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.client_addresses import client_address
from api.http.request_ids import HEADER, begin_request
from api.metrics.http import HttpMetrics
from jobs.tracing import current_trace_id

QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})
"""What machines ask all the time: logged at the level debug."""
EVENT_STREAM = b"text/event-stream"

log = structlog.get_logger(__name__)


@dataclass
class _Exchange:
    """One request and what has been answered so far."""

    status: int | None = None
    """None until the answer has begun."""
    sent: int = 0
    """Bytes of the answer's body."""
    held: bool = False
    """Whether the answer was held back on purpose, so that its duration says nothing about the service."""
    streams: bool = False


_exchange: ContextVar[_Exchange | None] = ContextVar("exchange", default=None)


def mark_held() -> None:
    """The answer to the current request waits for news: its duration is not counted."""
    if (exchange := _exchange.get()) is not None:
        exchange.held = True


class RequestLog:
    """The outermost middleware, so that refusals of the others have an id and a line too."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = begin_request(scope["headers"])
        # For the answer to an unexpected error, which is made outside of this middleware.
        scope.setdefault("state", {})["request_id"] = request_id
        _bind(request_id)
        exchange = _Exchange()
        _exchange.set(exchange)
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.body":
                exchange.sent += len(message.get("body", b""))
            elif message["type"] == "http.response.start":
                self._answer_begins(message, request_id, exchange)
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._metrics.in_flight.dec()
            if exchange.streams:
                self._metrics.event_streams.dec()
            self._ended(scope, exchange, time.perf_counter() - started)

    def _answer_begins(self, message: Message, request_id: str, exchange: _Exchange) -> None:
        headers = message["headers"]
        # A new list: an answer that is sent several times must not change.
        message["headers"] = [*headers, (HEADER.lower().encode(), request_id.encode())]
        exchange.status = message["status"]
        if dict(headers).get(b"content-type", b"").startswith(EVENT_STREAM):
            exchange.streams = exchange.held = True
            self._metrics.event_streams.inc()

    def _ended(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        route = route_template(scope)
        # Without an answer: an unexpected error, which is answered with 500 outside of this middleware.
        status = exchange.status or 500
        self._metrics.count(scope["method"], route, status, None if exchange.held else seconds)
        level = logging.DEBUG if route in QUIET_ROUTES else logging.WARNING if status >= 500 else logging.INFO
        log.log(
            level,
            "request",
            method=scope["method"],
            route=route,
            path=scope["path"],
            status=status,
            seconds=round(seconds, 4),
            bytes=exchange.sent,
            owner=caller.owner if (caller := scope["state"].get("caller")) is not None else None,
            client=client_address(scope),
        )


def _bind(request_id: str) -> None:
    """Bind the ids to every line that the request's code logs. Each request has a context of its own, which ends."""
    ids: dict[str, Any] = {"request_id": request_id}
    if (trace_id := current_trace_id()) is not None:
        ids["trace_id"] = trace_id
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**ids)


def route_template(scope: Scope) -> str | None:
    """The path of the request's route, as `/v1/jobs/{job_id}`; `/page/*` below a mounted application.

    None if no route has the path. So there are not more values than routes, whatever is asked for.
    """
    template = getattr(scope.get("route"), "path", None)
    if isinstance(template, str):
        return template
    mounted = scope.get("root_path", "").removeprefix(scope.get("app_root_path", ""))
    return f"{mounted}/*" if mounted else None
