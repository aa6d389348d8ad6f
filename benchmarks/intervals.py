"""Means over seeds and their intervals, as the pages show them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from jobs.studies.kinds.statistics import describe


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of at least two values, as in the tables of studies."""
    found = describe(values)
    if found.low is None or found.high is None:
        raise ValueError("an interval needs at least two values")
    return found.low, found.high


def excludes_zero(values: Sequence[float]) -> bool:
    """Whether the interval does; one value alone has none."""
    if len(values) < 2:
        return False
    low, high = interval(values)
    return low > 0 or high < 0


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation; one value alone has none."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def shown_difference(values: Sequence[float], digits: int = 2) -> str:
    """In bold if the interval excludes zero."""
    if len(values) < 2:
        return f"{statistics.mean(values):+.{digits}f}"
    low, high = interval(values)
    shown = f"{statistics.mean(values):+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    return f"**{shown}**" if excludes_zero(values) else shown
