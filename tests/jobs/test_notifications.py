"""The listener wakes who waits, when a change is committed and not before, and after every gap in its connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from jobs.database import notifications
from jobs.database.connection import Database
from jobs.database.notifications import Listener, TopicListener, notify
from jobs.ledger import attempts
from jobs.ledger.attempts import Event
from lit_spec import SPEC_VERSION
from tests.worker.bench import Bench, wait_for

SECONDS = 10.0
NOW = 0.0


def url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[Listener]:
    listener = Listener(url(database))
    with listener.subscribe("anything") as connected:
        await listener.start()
        try:
            # Being connected is the first wake-up, since nobody knows what was missed before.
            assert await connected.changed(SECONDS)
            yield listener
        finally:
            await listener.stop()


def tell(database: Database, topic: str) -> None:
    with database.session() as session:
        notify(session, topic)


async def everything_heard(listener: Listener, database: Database) -> None:
    """PostgreSQL delivers in the order of commits: once this is heard, so is all that came before."""
    with listener.subscribe("last") as last:
        tell(database, "last")
        assert await last.changed(SECONDS)


def test_waiters_are_woken_on_commit_only_and_only_for_their_topic(database: Database) -> None:
    async def scenario() -> None:
        async with listening(database) as listener:
            with listener.subscribe("a") as a, listener.subscribe("a") as also_a, listener.subscribe("b") as b:
                with database.session() as session:
                    notify(session, "a")
                    session.rollback()
                await everything_heard(listener, database)
                assert not await a.changed(NOW)

                with database.session() as session:
                    notify(session, "a")
                    session.flush()
                    await everything_heard(listener, database)
                    assert not await a.changed(NOW)
                assert await a.changed(SECONDS)
                assert await also_a.changed(SECONDS)
                assert not await b.changed(NOW)
                # A change is told once, and one that came between two looks is not lost.
                assert not await a.changed(NOW)
                tell(database, "b")
                await everything_heard(listener, database)
                assert await b.changed(NOW)

    asyncio.run(scenario())


def test_changes_of_a_job_are_told_and_heartbeats_are_not(bench: Bench) -> None:
    job = bench.job()
    with bench.database.session() as session:
        claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60)
    assert claim is not None

    def record() -> None:
        with bench.database.session() as session:
            attempts.record(session, claim, [Event("epoch")], [], None, None)

    def cancel() -> None:
        bench.cancel(job)

    def end() -> None:
        with bench.database.session() as session:
            attempts.cancelled(session, claim)

    async def scenario() -> None:
        async with listening(bench.database) as listener:
            with listener.subscribe(job) as subscription:
                with bench.database.session() as session:
                    attempts.heartbeat(session, claim, 60, 1.0)
                await everything_heard(listener, bench.database)
                assert not await subscription.changed(NOW)
                changes: list[Callable[[], None]] = [record, cancel, end]
                for change in changes:
                    change()
                    assert await subscription.changed(SECONDS), change

    asyncio.run(scenario())


def listeners(database: Database, action: str) -> int:
    """How many connections of this database wait for notifications, after `action` on the process of each."""
    query = f"SELECT {action} FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"
    with database.engine.connect() as connection:
        return len(connection.execute(text(query)).all())


def test_a_lost_connection_is_made_again_and_everyone_looks(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "RECONNECT_SECONDS", 0.05)

    async def scenario() -> None:
        async with listening(database) as listener:
            with listener.subscribe("a") as a, listener.subscribe("b") as b:
                assert listeners(database, "pg_terminate_backend(pid)") == 1
                # Once when the connection is lost, and once when there is a new one.
                for _ in range(2):
                    assert await a.changed(SECONDS)
                    assert await b.changed(SECONDS)
                assert listeners(database, "pid") == 1
                tell(database, "a")
                await everything_heard(listener, database)
                assert await a.changed(NOW)
                assert not await b.changed(NOW)

    asyncio.run(scenario())


def test_a_listener_that_stops_lets_everyone_go(database: Database) -> None:
    async def scenario() -> None:
        async with listening(database) as listener:
            with listener.subscribe("a") as a:
                waiter = asyncio.create_task(a.changed(SECONDS))
                await everything_heard(listener, database)
                assert not waiter.done()
                await listener.stop()
                assert await waiter
                # Nobody listens any more, neither here nor at the server.
                tell(database, "a")
                assert not await a.changed(NOW)

    asyncio.run(scenario())


class FailsFirst(Listener):
    """Its first connection ends with neither an outage nor a failure of the network, as by a bug."""

    failed = False

    async def _listen_once(self) -> None:
        if not self.failed:
            self.failed = True
            raise ValueError("a bug")
        await super()._listen_once()


def test_the_listener_goes_on_after_any_exception(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "RECONNECT_SECONDS", 0.05)

    async def scenario() -> None:
        listener = FailsFirst(url(database))
        await listener.start()
        try:
            await asyncio.to_thread(wait_for, lambda: listeners(database, "pid") == 1)
            await everything_heard(listener, database)
        finally:
            await listener.stop()

    asyncio.run(scenario())


def test_a_topic_listener_is_woken_by_its_topic_and_by_each_connection(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "RECONNECT_SECONDS", 0.05)
    monkeypatch.setattr(notifications, "STOP_LOOK_SECONDS", 0.05)
    woken = threading.Semaphore(0)
    listener = TopicListener(url(database), "a", woken.release)
    listener.start()
    try:
        assert woken.acquire(timeout=SECONDS)
        tell(database, "b")
        tell(database, "a")
        assert woken.acquire(timeout=SECONDS)
        assert not woken.acquire(timeout=NOW)
        assert listeners(database, "pg_terminate_backend(pid)") == 1
        assert woken.acquire(timeout=SECONDS)
        tell(database, "a")
        assert woken.acquire(timeout=SECONDS)
    finally:
        listener.stop()
    wait_for(lambda: listeners(database, "pid") == 0)
