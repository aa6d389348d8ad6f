"""What the metrics of all processes share: a registry, the formats of Prometheus, and the token of those who read."""

from __future__ import annotations

import secrets
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder


def new_registry(process: str) -> CollectorRegistry:
    """A registry of this process's own, with the version and what the kernel knows of it (Linux).

    `process` is what the process is: `api`, `training-worker` or `inspecting-worker`.
    """
    # They would double the series of counters and histograms, and nothing here needs them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    build = Gauge("lit_build_info", "Always 1; the labels say what runs.", ["version", "process"], registry=registry)
    build.labels(version("lit-compress"), process).set(1)
    ProcessCollector(namespace="lit", registry=registry)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """All metrics in the format that an Accept header asks for (text or OpenMetrics), and its media type."""
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


def is_token(authorization: str | None, token: str) -> bool:
    """Whether an Authorization header is `Bearer` and this token."""
    scheme, _, sent = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(sent.strip().encode(), token.encode())
