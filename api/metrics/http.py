"""Numbers of the requests that this process has answered."""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Seconds. Most answers take milliseconds; an upload or download may take minutes."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE = "none"


class HttpMetrics:
    """Counters of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests = Counter(
            "lit_http_requests",
            "Requests that this process has answered, by route template (none: no such path).",
            ["method", "route", "status"],
            registry=registry,
        )
        durations = Histogram(
            "lit_http_request_duration_seconds",
            "Time until the last byte of the answer. Without long polls and event streams, which wait on purpose.",
            ["method", "route"],
            buckets=DURATIONS,
            registry=registry,
        )
        # To find the numbers of a route takes longer than to count.
        self._requests_of = cache(requests.labels)
        self._durations_of = cache(durations.labels)
        self.in_flight = Gauge(
            "lit_http_requests_in_flight",
            "Requests that this process is answering now.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.event_streams = Gauge(
            "lit_http_event_streams_open",
            "Event streams that are open in this process.",
            registry=registry,
            multiprocess_mode="livesum",
        )

    def count(self, method: str, route: str | None, status: int, seconds: float | None) -> None:
        """An answer has ended. `seconds` is None if it was held back on purpose."""
        method = method if method in METHODS else "other"
        route = route or NO_ROUTE
        self._requests_of(method, route, status).inc()
        if seconds is not None:
            self._durations_of(method, route).observe(seconds)
