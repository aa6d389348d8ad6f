"""Statistics of one number over several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
DECIMALS = 4


@dataclass(frozen=True)
class Sample:
    """Mean, standard deviation (n - 1) and the ends of the 95 % interval of the mean; None where too few numbers."""

    mean: float | None
    std: float | None
    low: float | None
    high: float | None


def describe(values: Sequence[float]) -> Sample:
    """Student's interval: mean ± t(0.975, n - 1) · s / √n."""
    if not values:
        return Sample(None, None, None, None)
    mean = fmean(values)
    if len(values) == 1:
        return Sample(_rounded(mean), None, None, None)
    std = stdev(values)
    half = student_quantile(len(values) - 1) * std / math.sqrt(len(values))
    return Sample(_rounded(mean), _rounded(std), _rounded(mean - half), _rounded(mean + half))


def student_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution."""
    # Imported here, so that nothing loads numpy unless it computes an interval.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))


def _rounded(value: float) -> float:
    return round(value, DECIMALS)
