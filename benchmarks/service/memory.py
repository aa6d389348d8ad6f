"""Memory of the servers after everything else was measured."""

from __future__ import annotations

from benchmarks.service.figures import Effort, Figure
from benchmarks.service.servers import Servers

MEBIBYTE = 1 << 20


def measure_memory(servers: Servers, effort: Effort) -> list[Figure]:  # noqa: ARG001 - as the other sections
    return [
        Figure("memory", name, "MiB", [server.memory_bytes() / MEBIBYTE]) for name, server in servers.running.items()
    ]
