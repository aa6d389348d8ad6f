"""Views of samples: which there are, when each is shown, and that nothing else decides what they look like."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_core.data.views import SampleViews, ViewPlan
from lit_core.training.mixing import MOST, mixtures_of
from lit_core.training.steps import passes_over, rows_of, samples_of
from lit_spec import Phase, Schedule


def first_views(samples: int, seed: int = 0) -> SampleViews:
    return SampleViews(torch.arange(samples), torch.zeros(samples, dtype=torch.int64), seed)


def test_numbers_are_even_and_independent_of_row_view_seed_and_purpose() -> None:
    rows = torch.arange(20_000)
    draws = {
        "one": first_views(20_000).uniform("one"),
        "other purpose": first_views(20_000).uniform("two"),
        "other seed": first_views(20_000, 1).uniform("one"),
        "other view": SampleViews(rows, torch.ones_like(rows), 0).uniform("one"),
        "next row": first_views(20_001).uniform("one")[1:],
    }
    for name, drawn in draws.items():
        assert 0 <= drawn.min() < drawn.max() < 1, name
        counts = torch.histc(drawn, 20, 0, 1)
        # Chi squared with 19 degrees of freedom is beyond 50 once in 7,000 times.
        assert float(((counts - 1000) ** 2 / 1000).sum()) < 50, name
    correlations = torch.corrcoef(torch.stack(list(draws.values()))).fill_diagonal_(0)
    assert correlations.abs().max() < 0.03


@settings(max_examples=30, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 500)), min_size=1, max_size=20),
    seed=st.integers(0, 2**62),
)
def test_a_sample_has_its_numbers_in_every_batch(places: list[tuple[int, int]], seed: int) -> None:
    rows, views = torch.tensor(places).unbind(1)
    whole = SampleViews(rows, views, seed)
    together, streams = whole.uniform("shift"), list(whole.generators("noise"))
    for place in range(len(places)):
        alone = whole.at(torch.tensor([place]))
        assert torch.equal(alone.uniform("shift"), together[place : place + 1])
        (stream,) = alone.generators("noise")
        assert stream.initial_seed() == streams[place].initial_seed()


def shown(plan: ViewPlan, number: int, samples: int = 50) -> Tensor:
    rows = torch.arange(samples)
    return plan.of("lit", rows, torch.full_like(rows, number)).views


def test_each_cycle_shows_each_view_of_a_sample_once_and_samples_in_another_order() -> None:
    plan = ViewPlan(seed=5, count=4)
    for cycle in range(3):
        views = torch.stack([shown(plan, 4 * cycle + place) for place in range(4)])
        assert torch.equal(views.sort(0).values, torch.arange(4)[:, None].expand(4, 50))
        orders = {tuple(order) for order in views.T.tolist()}
        # The first cycle has the same order for all: what one job has kept of it, another one needs.
        assert len(orders) == 1 if cycle == 0 else len(orders) > 10
    assert torch.equal(shown(plan, 2), shown(ViewPlan(seed=6, count=9), 2))
    assert not torch.equal(shown(plan, 6), shown(ViewPlan(seed=6, count=4), 6))


def test_without_a_number_of_views_each_pass_and_phase_has_its_own() -> None:
    plan, rows = ViewPlan(seed=5), torch.arange(50)
    seen = [
        plan.of(phase, rows, torch.full_like(rows, number)).uniform("flip")
        for phase in ("lit", "fine_tune")
        for number in range(3)
    ]
    assert len({tuple(drawn.tolist()) for drawn in seen}) == 6
    # Jobs with other seeds see other views, but with a number of views the same ones.
    for count, same in ((None, False), (3, True)):
        one, other = (ViewPlan(seed, count).of("lit", rows, torch.zeros_like(rows)) for seed in (1, 2))
        assert torch.equal(one.uniform("flip"), other.uniform("flip")) == same


@pytest.mark.parametrize("steps_per_epoch", [None, 5])
def test_the_samples_of_a_step_know_their_pass(steps_per_epoch: int | None) -> None:
    schedule = Schedule(batch_size=8, steps_per_epoch=steps_per_epoch)
    seen: list[tuple[int, int]] = []
    for epoch in range(6):
        for step in range(steps_per_epoch or 3):
            found = samples_of(ViewPlan(0, 100), 21, schedule, 3, Phase.LIT, epoch, step)
            assert torch.equal(found.rows, rows_of(21, schedule, 3, Phase.LIT, epoch, step))
            seen += zip(found.rows.tolist(), found.views.tolist(), strict=True)
    # The first cycle: the view is the number of the pass, and each pass shows each sample once.
    assert len(set(seen)) == len(seen)
    assert max(view for _, view in seen) == int(passes_over(21, schedule, 6) - 1e-9)
    for number in range(4):
        assert sorted(row for row, view in seen if view == number) == list(range(21))


def test_mixtures_follow_from_the_views_alone() -> None:
    samples = first_views(4000)
    found = mixtures_of(samples, 0.5, 4000)
    assert len(found.own) == pytest.approx(2000, abs=150)
    assert not bool((found.others.rows == found.own).any()), "nothing is mixed with itself"
    assert len(found.others.rows.unique()) > 1000
    assert 0 <= found.weights.min() < found.weights.max() <= MOST
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(1))
    again = mixtures_of(samples.at(order), 0.5, 4000)
    back = order[again.own].argsort()
    assert torch.equal(order[again.own][back], found.own)
    assert torch.equal(again.others.rows[back], found.others.rows)
    assert torch.equal(again.weights[back], found.weights)
    x = torch.eye(3)
    made = mixtures_of(first_views(3), 1.0, 3)
    assert torch.equal(made.mix(x, x[made.others.rows]).sum(1), torch.ones(3))
    assert [len(mixtures_of(first_views(n), share, n).own) for n, share in ((1, 1.0), (5, 0.0))] == [0, 0]
