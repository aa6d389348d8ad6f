"""95 % intervals of accuracies, in percent, from numbers of samples."""

from __future__ import annotations

import math

Z = 1.959964
"""The 97.5 % quantile of the standard normal distribution."""


def wilson(count: int, samples: int) -> tuple[float, float]:
    """Of the share of `count` in `samples` (Wilson, 1927)."""
    share, spread = count / samples, Z**2 / samples
    centre = (share + spread / 2) / (1 + spread)
    margin = Z * math.sqrt(share * (1 - share) / samples + spread / (4 * samples)) / (1 + spread)
    return 100 * max(0.0, centre - margin), 100 * min(1.0, centre + margin)


def paired_difference(only_first: int, only_second: int, samples: int) -> tuple[float, float]:
    """Of the first's accuracy minus the second's, both measured on the same samples: those that only one of the two has
    right decide (Agresti and Min, 2005: a Wald interval after half a sample is added to each of the four cells)."""
    first, second, count = only_first + 0.5, only_second + 0.5, samples + 2
    difference = (first - second) / count
    margin = Z * math.sqrt(first + second - count * difference**2) / count
    return 100 * max(-1.0, difference - margin), 100 * min(1.0, difference + margin)
