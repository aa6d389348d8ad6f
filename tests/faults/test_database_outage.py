"""PostgreSQL is gone for longer than a lease: healthy jobs go on, and none of them loses an attempt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobs.database.connection import Database
from jobs.database.migrate import upgrade
from jobs.housekeeping import Housekeeper
from jobs.ledger import attempts
from lit_spec.requests.upgrades import READABLE_SPEC_VERSIONS
from service.embedded.postgres import EmbeddedPostgres
from tests.worker.bench import Bench, child, make_bench, wait_for

LEASE_SECONDS = 3.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_bench(server: EmbeddedPostgres, tmp_path: Path) -> Iterator[Bench]:
    """On a server of its own, which can be stopped."""
    upgrade(server.url)
    database = Database(server.url)
    yield make_bench(
        database, server.url, "redis://unused", tmp_path, lease_seconds=LEASE_SECONDS, housekeeping_seconds=0.05
    )
    database.close()


def test_an_outage_longer_than_a_lease_costs_healthy_jobs_no_attempt(
    own_bench: Bench, server: EmbeddedPostgres
) -> None:
    bench = own_bench
    dead = bench.job()
    with bench.database.session() as session:
        # By a worker that nobody will ever hear of again.
        assert attempts.claim(session, "dead", ["cpu"], READABLE_SPEC_VERSIONS, LEASE_SECONDS)
    healthy = bench.job()
    with ExitStack() as stack:
        stack.enter_context(bench.working(child("run")))
        wait_for(lambda: bench.row(healthy).checkpoint, 20)
        # One that saw the outage, and one that starts after it.
        housekeepers = [Housekeeper(bench.database, lambda _queue: None, bench.settings, bench.storage) for _ in "12"]
        for housekeeper in housekeepers:
            stack.callback(housekeeper.stop)
        housekeepers[0].start()
        server.stop()
        time.sleep(LEASE_SECONDS + 1)
        server.start()
        housekeepers[1].start()
        wait_for(lambda: bench.events(healthy, "released"), 30)
        # Then the wait is over for the worker that is really gone.
        wait_for(lambda: bench.events(dead, "lost"), 30)
        # On a slow machine both are free by now, and the older job goes first.
        wait_for(lambda: 2 in (bench.row(healthy).attempt, bench.row(dead).attempt), 30)
    released, *_ = bench.events(healthy, "released")
    assert released["reason"].startswith("the ledger was out of reach")
    assert (bench.row(healthy).failures, bench.row(healthy).state) == (0, "queued")
    assert bench.events(healthy, "lost") == []
    assert bench.row(dead).failures == 1
