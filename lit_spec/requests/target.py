"""What a student must reach, in the user's terms: `student.target` of a request."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

from pydantic import Field, model_validator

from lit_spec.base import SpecError, SpecModel
from lit_spec.networks.students import NANOSECONDS_PER_MS, most_left

TARGETS = {
    "latency_ratio": "1.5",
    "latency_ms": "8",
    "size_mb": "5",
    "flops_ratio": "1.5",
    "parameters_ratio": "1.5",
    "max_accuracy_drop": "2",
}
"""The fields of which a target has one, with examples."""
TARGETS_SHOWN = ", ".join(f'"{name}" (as {example})' for name, example in TARGETS.items())
LATENCIES = ("latency_ratio", "latency_ms")
PARAMETERS_PER_MB = 250_000
"""In float32."""
# Of targets that are not ratios: how much of the cost one of their units is.
_UNITS = {"latency_ms": NANOSECONDS_PER_MS, "size_mb": PARAMETERS_PER_MB}


class Target(SpecModel):
    """What a student must reach, in one of these terms."""

    latency_ratio: float | None = Field(None, gt=1, le=1000)
    """At least how many times faster than the teacher on the worker's device."""
    latency_ms: float | None = Field(None, gt=0, le=1e9)
    """Milliseconds of one forward pass on the worker's device, at most."""
    size_mb: float | None = Field(None, gt=0, le=1e9)
    """Megabytes (10^6 bytes) of the student's parameters in float32, at most."""
    flops_ratio: float | None = Field(None, gt=1, le=1000)
    """At least how many times fewer FLOPs than the teacher, for inputs of the data's size."""
    parameters_ratio: float | None = Field(None, gt=1, le=1000)
    """At least how many times fewer parameters than the teacher."""
    max_accuracy_drop: float | None = Field(None, ge=0, le=100)
    """Points of validation accuracy that the untrained student may lose against the teacher; without labels, points of
    agreement."""
    batch: int = Field(1, ge=1, le=65_536)
    """For a latency: samples in the forward pass."""

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"has {' and '.join(given) or 'no target'}: give exactly one of {TARGETS_SHOWN}")
        if self.batch != 1 and given[0] not in LATENCIES:
            raise ValueError(f'has "batch", which is for a latency, and {given[0]}: leave "batch" out')
        return self

    @property
    def name(self) -> str:
        return next(name for name in TARGETS if getattr(self, name) is not None)

    @property
    def value(self) -> float:
        return float(getattr(self, self.name))

    def most(self, total: int) -> int:
        """What a student may cost at most where its teacher costs `total`: parameters, FLOPs or nanoseconds."""
        unit = _UNITS.get(self.name)
        return most_left(total, self.value) if unit is None else math.floor(self.value * unit)

    def reached(self, total: int, left: int) -> float:
        """What a student reaches that costs `left`, in the target's unit."""
        unit = _UNITS.get(self.name)
        return total / left if unit is None else left / unit

    def check_asks_for_less(self, total: int, field: str) -> None:
        """Raises SpecError if the teacher itself costs no more, or nothing at all."""
        if total == 0:
            raise SpecError(field, f"asks for {self}, but none are counted in the teacher: give another target")
        if self.most(total) >= total:
            own = _rounded(self.reached(total, total), math.ceil)
            raise SpecError(field, f"asks for {self}, but the teacher itself has only {own}: give less")

    def unreachable(self, total: int, least: int) -> str:
        """Why no student reaches it, the cheapest of which costs `least`."""
        if least >= total:
            return f"asks for {self}, but no student costs less than the teacher: give a deeper teacher"
        if self.name in _UNITS:
            reached = _rounded(self.reached(total, least), math.ceil)
            return f"asks for {self}, but the smallest student has {reached}: give at least that"
        reached = _rounded(self.reached(total, least), math.floor)
        return f"asks for {self}, but the smallest student reaches only {reached}: give at most that"

    def __str__(self) -> str:
        return f"{self.name} {self.value:g}{f' at batch {self.batch}' if self.name in LATENCIES else ''}"


def _rounded(value: float, to: Callable[[float], int]) -> str:
    """To four digits, in the direction in which it can still be reached."""
    scale = 10.0 ** (3 - math.floor(math.log10(value))) if value > 0 else 1.0
    return f"{to(value * scale) / scale:.15g}"
