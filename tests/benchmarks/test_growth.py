"""The short form of `make bench-growth`: what PostgreSQL does must not grow with the ledger. It looks at no times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from benchmarks.growth.ledgers import Pair, gib_on_disk, two_ledgers
from benchmarks.growth.measuring import Seen, measure, results
from benchmarks.growth.sizes import METRICS_PER_EPOCH, OWNERS, SMALL_JOBS, WORKERS, Sizes

SIZES = Sizes(jobs=20_000, queued=4_500, points=200_000)
"""So many are queued that the jobs of the owner who waits fill the heads of the queue for each device."""
SMALL_TABLES = {
    *(
        "tracked_runs",
        "owner_quotas",
        "workers",
        "webhooks",
        "studies",
        "study_tags",
        "study_uploads",
        "owner_bytes",
        "seats",
    ),
}
"""Tables that stay small, or are small here, so that reading all of them is the best plan."""
PLACES_PAGES = 40
"""Pages of the queue's index with the places of as many jobs as are counted."""
STEPS_PAGES = {"claim, the oldest 30 % wait": OWNERS * 2 * 3}
"""Pages for what a small ledger need not do: a step for each owner and device from the index's root to a leaf."""


@pytest.fixture(scope="module")
def pair(service_urls: tuple[str, str]) -> Iterator[Pair]:
    with two_ledgers(service_urls[0], SIZES) as made:
        yield made


@pytest.fixture(scope="module")
def seen(pair: Pair) -> list[tuple[Seen, Seen]]:
    return measure(pair, rounds=0, explained=2)


def test_the_ledgers_have_what_was_asked_for(pair: Pair) -> None:
    counts = text(
        "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM jobs WHERE state = 'queued'), "
        "(SELECT count(*) FROM jobs WHERE state = 'running'), (SELECT count(*) FROM epoch_metrics), "
        "(SELECT sum(size) FROM uploads) + (SELECT sum(stored_bytes) FROM jobs), (SELECT sum(bytes) FROM owner_bytes)"
    )
    for ledger, jobs, queued in ((pair.small, SMALL_JOBS, 225), (pair.large, SIZES.jobs, SIZES.queued)):
        with ledger.database.session() as session:
            found = session.execute(counts).one()
        assert tuple(found)[:3] == (jobs, queued, WORKERS)
        assert found[3] * METRICS_PER_EPOCH == pytest.approx(jobs * SIZES.points / SIZES.jobs, rel=0.3)
        assert found[4] == found[5]
    assert gib_on_disk(pair.large)["jobs"] > 0


def test_no_case_reads_a_whole_table_or_more_pages_than_in_a_small_ledger(seen: list[tuple[Seen, Seen]]) -> None:
    found = {one.case: one for one in results(seen)}
    assert {"get a queued job", "claim a job", "metrics of a job", "list name, deep page"} <= found.keys()
    promised = [one for one in found.values() if one.promised]
    assert {one.case: one.large.whole_tables for one in promised if set(one.large.whole_tables) - SMALL_TABLES} == {}
    grown = {
        one.case: (one.small.pages, one.large.pages)
        for one in promised
        if one.large.pages > 1.5 * one.small.pages + PLACES_PAGES + STEPS_PAGES.get(one.case, 0)
    }
    assert grown == {}


def test_what_is_called_is_the_same_in_both(seen: list[tuple[Seen, Seen]]) -> None:
    assert [small.case.name for small, _ in seen] == [large.case.name for _, large in seen]
    small, large = seen[0]
    for one in (small, large):
        one.time()
        assert one.side().p99_ms >= one.side().p50_ms > 0
