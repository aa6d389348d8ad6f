"""What the sections of the bench return."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.service.servers import Name, Servers


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    seconds: float
    """Of each measurement of a round."""
    connections: Sequence[int]
    file_bytes: int


@dataclass(frozen=True)
class Figure:
    """One thing that was measured of one server, once in each round."""

    what: str
    server: Name
    unit: str
    values: Sequence[float]
    connections: int | None = None
    p50_ms: float | None = None
    """Medians over the rounds, as `p99_ms`."""
    p99_ms: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def as_json(self) -> dict[str, object]:
        times = {"p50_ms": self.p50_ms, "p99_ms": self.p99_ms}
        return {
            "what": self.what,
            "server": self.server.value,
            "connections": self.connections,
            "unit": self.unit,
            "median": round(self.median, 2),
            "low": round(min(self.values), 2),
            "high": round(max(self.values), 2),
            **{name: round(value, 3) for name, value in times.items() if value is not None},
        }


class Section(Protocol):
    """A part of the bench: a module's function `measure`."""

    def __call__(self, servers: Servers, effort: Effort) -> list[Figure]: ...
