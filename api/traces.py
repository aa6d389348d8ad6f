"""Spans of requests, by OpenTelemetry's own instrumentation of FastAPI."""

from __future__ import annotations

from fastapi import FastAPI

from jobs.tracing import Tracing

NOT_TRACED = "healthz,readyz,metrics$"
"""Regular expressions of what machines ask all the time."""


def instrument(app: FastAPI, tracing: Tracing) -> None:
    """Make a span of each request. It continues the caller's trace if the request has a `traceparent`."""
    if tracing.provider is None:
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=tracing.provider,
        excluded_urls=NOT_TRACED,
        # Otherwise each piece of an upload would be a span.
        exclude_spans=["receive", "send"],
    )
