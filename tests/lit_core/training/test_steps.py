from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_core.training.steps import learning_rate
from lit_spec import Constant, Cosine, Milestones, OneCycle, PhaseSchedule


def phase(schedule: object, epochs: int = 10) -> PhaseSchedule:
    return PhaseSchedule.model_validate({"epochs": epochs, "learning_rate": 0.1, "schedule": schedule})


def test_milestones_cut_at_the_start_of_their_epoch() -> None:
    cut = phase(Milestones(kind="milestones", milestones=[3, 6], gamma=0.1))
    rates = [learning_rate(cut, epoch * 5 + step, 5) for epoch in range(10) for step in (0, 4)]
    assert rates == pytest.approx([0.1] * 6 + [0.01] * 6 + [0.001] * 8)


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing() -> None:
    cycle = phase(OneCycle(kind="one_cycle", warmup=0.2))
    rates = [learning_rate(cycle, step, 10) for step in range(100)]
    peak = rates.index(max(rates))
    assert peak in (19, 20)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0.097 < max(rates) <= 0.1
    assert rates[-1] < 1e-4


def test_cosine_starts_high_and_constant_stays() -> None:
    assert learning_rate(phase(Cosine(kind="cosine")), 0, 10) == pytest.approx(0.1, rel=1e-3)
    assert learning_rate(phase(Cosine(kind="cosine")), 99, 10) < 1e-4
    assert {learning_rate(phase(Constant(kind="constant")), step, 10) for step in range(100)} == {0.1}


@given(warmup=st.floats(0.01, 0.99), epochs=st.integers(1, 50), steps=st.integers(1, 50), kind=st.sampled_from("oc"))
def test_the_rate_is_positive_and_never_above_the_given_one(warmup: float, epochs: int, steps: int, kind: str) -> None:
    schedule = OneCycle(kind="one_cycle", warmup=warmup) if kind == "o" else Cosine(kind="cosine")
    made = phase(schedule, epochs)
    for step in {0, 1, epochs * steps // 2, epochs * steps - 1}:
        if step < epochs * steps:
            assert 0 < learning_rate(made, step, steps) <= 0.1 + 1e-12
