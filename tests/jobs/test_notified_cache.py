"""What is kept in memory is never older than what was notified, and is not used while nobody notifies."""

from __future__ import annotations

import asyncio

import pytest

from jobs.database import notifications
from jobs.database.connection import Database
from jobs.database.notifications import Listener
from jobs.database.notified_cache import NotifiedCache
from tests.jobs.test_notifications import everything_heard, listeners, listening, tell, url


async def until_live(listener: Listener, *, live: bool = True) -> None:
    async with asyncio.timeout(20):
        while listener.is_live is not live:
            await asyncio.sleep(0.01)


def kept(cache: NotifiedCache[str, int], topic: str, key: str, value: int, seconds: float = 60) -> None:
    with cache.reading(topic) as reading:
        reading.keep(key, value, seconds)


def test_a_value_stays_until_its_topic_is_notified(database: Database) -> None:
    async def scenario() -> None:
        async with listening(database) as listener:
            cache: NotifiedCache[str, int] = NotifiedCache(listener, 2)
            await until_live(listener)
            kept(cache, "a", "first", 1)
            kept(cache, "b", "second", 2)
            await asyncio.to_thread(tell, database, "a")
            await everything_heard(listener, database)
            assert (cache.get("first"), cache.get("second")) == (None, 2)

    asyncio.run(scenario())


def test_a_value_that_was_read_before_a_change_is_not_kept(database: Database) -> None:
    async def scenario() -> None:
        async with listening(database) as listener:
            cache: NotifiedCache[str, int] = NotifiedCache(listener, 2)
            await until_live(listener)
            with cache.reading("a") as old, cache.reading("b") as other:
                await asyncio.to_thread(tell, database, "a")
                await everything_heard(listener, database)
                old.keep("old", 1)
                other.keep("other", 2)
            assert (cache.get("old"), cache.get("other")) == (None, 2)

    asyncio.run(scenario())


def test_values_end_with_their_time_and_the_oldest_make_room(database: Database) -> None:
    async def scenario() -> None:
        async with listening(database) as listener:
            cache: NotifiedCache[str, int] = NotifiedCache(listener, 2)
            await until_live(listener)
            kept(cache, "a", "over", 1, seconds=0)
            assert cache.get("over") is None
            for number, key in enumerate(("x", "y")):
                kept(cache, "a", key, number)
            assert cache.get("x") == 0
            kept(cache, "a", "z", 2)
            assert [cache.get(key) for key in ("x", "y", "z")] == [0, None, 2]

    asyncio.run(scenario())


def test_large_values_take_the_room_of_several(database: Database) -> None:
    async def scenario() -> None:
        async with listening(database) as listener:
            cache: NotifiedCache[str, int] = NotifiedCache(listener, 10, size_of=abs)
            await until_live(listener)
            for key, value in (("x", 2), ("y", 3), ("y", 4), ("z", 5)):
                kept(cache, "a", key, value)
            assert [cache.get(key) for key in ("x", "y", "z")] == [None, 4, 5]
            kept(cache, "a", "too large", 11)
            assert [cache.get(key) for key in ("too large", "y", "z")] == [None, 4, 5]
            cache.changed("a")
            kept(cache, "a", "all", 10)
            assert cache.get("all") == 10
            cache.all_changed()
            kept(cache, "a", "all", 10)
            assert cache.get("all") == 10

    asyncio.run(scenario())


def test_nothing_is_known_without_a_connection_or_after_a_gap(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "RECONNECT_SECONDS", 0.5)

    async def scenario() -> None:
        async with listening(database) as listener:
            cache: NotifiedCache[str, int] = NotifiedCache(listener, 2)
            await until_live(listener)
            kept(cache, "a", "before", 1)
            with cache.reading("a") as begun_before:
                assert await asyncio.to_thread(listeners, database, "pg_terminate_backend(pid)") == 1
                await until_live(listener, live=False)
                assert cache.get("before") is None
                kept(cache, "a", "meanwhile", 2)
                await until_live(listener)
                begun_before.keep("begun before", 3)
            assert [cache.get(key) for key in ("before", "meanwhile", "begun before")] == [None, None, None]

    asyncio.run(scenario())


def test_a_connection_that_gives_no_answer_is_not_trusted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        listener = Listener(url(database))
        cache: NotifiedCache[str, int] = NotifiedCache(listener, 2)
        await listener.start()
        try:
            await until_live(listener)
            kept(cache, "a", "value", 1)
            assert cache.get("value") == 1
            # As if the last answer had come that long ago.
            monkeypatch.setattr(notifications, "TRUSTED_SECONDS", 0.0)
            assert cache.get("value") is None
        finally:
            await listener.stop()

    asyncio.run(scenario())
