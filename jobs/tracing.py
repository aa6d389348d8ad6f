"""Traces by OpenTelemetry, from the request to the trainer. Off unless an OTLP endpoint is set in the environment.

The packages are an extra (`otel`). Spans leave the process from a thread of their own: a collector that can't be
reached costs spans and nothing else.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.version import VERSION

try:
    from opentelemetry import trace
except ImportError:
    trace = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
CLOSE_SECONDS = 3.0
"""How long the last spans may take to leave when the process ends."""

Attributes = Mapping[str, str | int | float | bool]


class TracingNotConfigured(Exception):
    """Traces are asked for, but can't be made. The message says why and what to do."""


def current_traceparent() -> str | None:
    """The current span as a `traceparent` (W3C Trace Context); None without one."""
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def current_trace_id() -> str | None:
    """The current trace's id, 32 hexadecimal digits; None without one."""
    traceparent = current_traceparent()
    return None if traceparent is None else traceparent.split("-")[1]


@dataclass(frozen=True)
class Span:
    """A span that is open. Without tracing its methods do nothing."""

    _span: trace.Span | None = None

    def set(self, name: str, value: str | int | float | bool) -> None:
        if self._span is not None:
            self._span.set_attribute(name, value)

    def fail(self, reason: str) -> None:
        """What the span stands for failed."""
        if self._span is not None:
            self._span.set_status(trace.StatusCode.ERROR, reason)


class Tracing:
    """Makes the spans of one process. Without a provider it makes none."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.provider = provider
        self._tracer = None if provider is None else provider.get_tracer("lit", VERSION)

    @contextmanager
    def span(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        parent: str | None = None,
        start: float | None = None,
    ) -> Iterator[Span]:
        """A span that is the current one inside `with`: a child of the current one, or of the traceparent `parent`.

        It begins at `start`, in seconds since 1970; None: now. An exception that leaves it makes it a failed one.
        """
        if self._tracer is None:
            yield Span()
            return
        begun = self._tracer.start_as_current_span(
            name,
            _context(parent),
            attributes=dict(attributes or {}),
            start_time=None if start is None else _nanoseconds(start),
        )
        with begun as span:
            yield Span(span)

    def record(
        self,
        name: str,
        start: float,
        end: float,
        attributes: Attributes | None = None,
        *,
        parent: str | None = None,
    ) -> None:
        """A span that has already ended, a child as in `span`. `start` and `end` are seconds since 1970."""
        if self._tracer is None:
            return
        span = self._tracer.start_span(
            name, _context(parent), attributes=dict(attributes or {}), start_time=_nanoseconds(start)
        )
        span.end(_nanoseconds(max(start, end)))

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        if self.provider is not None:
            # The SDK itself would wait for half a minute.
            last = threading.Thread(target=self.provider.shutdown, name="last spans", daemon=True)
            last.start()
            last.join(CLOSE_SECONDS)


OFF = Tracing()


def open_tracing(service: str) -> Tracing:
    """Tracing as the environment says: off without an endpoint. `service` is the spans' `service.name`.

    OTEL_SERVICE_NAME replaces it; the SDK reads its other variables (OTEL_TRACES_SAMPLER, OTEL_BSP_…) itself. Raises
    TracingNotConfigured.
    """
    endpoint = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return OFF
    _check(endpoint)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        raise TracingNotConfigured(
            f"{endpoint} is set, but the packages for traces are missing ({missing}): install the extra `otel`, as in "
            "`pip install 'lit-compress[service,otel]'`, or unset the variable"
        ) from missing
    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or service, "service.version": VERSION}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _check(endpoint: str) -> None:
    """Raises TracingNotConfigured for what the exporter would only notice, and log, with each export."""
    if not os.environ[endpoint].startswith(("http://", "https://")):
        raise TracingNotConfigured(f"{endpoint} is not an http:// or https:// URL: give one, as http://collector:4318")
    protocol = next((name for name in PROTOCOLS if os.environ.get(name)), None)
    if protocol is not None and os.environ[protocol] != PROTOCOL:
        raise TracingNotConfigured(f"{protocol} is {os.environ[protocol]}: only {PROTOCOL} can be sent, so unset it")


def _context(parent: str | None) -> Context | None:
    """None: the current context."""
    if parent is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
