"""What the metrics of all processes share: a registry, the formats of Prometheus, and the token of those who read."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from jobs.version import VERSION


def new_registry(process: str) -> CollectorRegistry:
    """A registry of this process's own, with the version and what the kernel knows of it (Linux).

    `process` is what the process is: `api`, `training-worker` or `inspecting-worker`.
    """
    # They would double the series of counters and histograms, and nothing here needs them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    build = Gauge(
        "lit_build_info",
        "Always 1; the labels say what runs.",
        ["version", "process"],
        registry=registry,
        multiprocess_mode="max",
    )
    build.labels(VERSION, process).set(1)
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


class DiskCollector(Collector):
    """The disks on which the folders lie, by the names of the folders. A folder that is not there is left out."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def collect(self) -> Iterator[Metric]:
        free = GaugeMetricFamily(
            "lit_disk_free_bytes", "Free bytes of the disk on which the folder lies.", labels=["folder"]
        )
        size = GaugeMetricFamily("lit_disk_size_bytes", "Size of that disk.", labels=["folder"])
        for name, folder in self._folders.items():
            try:
                usage = shutil.disk_usage(folder)
            except OSError:
                continue
            free.add_metric([name], usage.free)
            size.add_metric([name], usage.total)
        yield from (free, size)
