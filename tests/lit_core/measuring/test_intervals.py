"""95 % intervals of accuracies."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_core.measuring.intervals import paired_difference, wilson


def test_wilson_as_published() -> None:
    """Newcombe (1998), table I, method 3."""
    published = {(81, 263): (25.53, 36.62), (15, 148): (6.24, 16.05), (0, 20): (0, 16.11), (1, 29): (0.61, 17.18)}
    for (count, samples), (low, high) in published.items():
        assert wilson(count, samples) == pytest.approx((low, high), abs=0.01)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_a_paired_interval_has_the_difference_inside_and_changes_its_sign_with_it(
    first: int, second: int, same: int
) -> None:
    samples = max(1, first + second + same)
    low, high = paired_difference(first, second, samples)
    assert -100 <= low <= 100 * (first - second) / samples <= high <= 100
    assert paired_difference(second, first, samples) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("only_first", "only_second"), [(0.02, 0.02), (0.1, 0.05), (0.3, 0.1)])
def test_a_paired_interval_holds_the_truth_nineteen_times_in_twenty(only_first: float, only_second: float) -> None:
    samples, both = 60, 1 - only_first - only_second
    held = 0.0
    for first in range(samples + 1):
        for second in range(samples + 1 - first):
            rest = samples - first - second
            ways = comb(samples, first) * comb(samples - first, second)
            low, high = paired_difference(first, second, samples)
            if low <= 100 * (only_first - only_second) <= high:
                held += ways * only_first**first * only_second**second * both**rest
    assert 0.94 < held <= 1
