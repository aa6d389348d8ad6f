"""Looks that many share: nobody gets what was read before they asked, and a failure is everybody's who asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from api.http.shared_looks import SharedLooks


def test_those_who_ask_meanwhile_share_the_next_read() -> None:
    reads: list[list[int]] = []
    go_on = threading.Event()

    def read(keys: Sequence[int]) -> dict[int, str]:
        reads.append(list(keys))
        assert go_on.wait(20)
        return {key: f"{key} in read {len(reads)}" for key in keys if key >= 0}

    async def scenario() -> list[str | None]:
        looks = SharedLooks(read, most=3)
        first = asyncio.create_task(looks.look(1))
        while not reads:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(looks.look(key)) for key in (1, 1, 2, -1, 3)]
        await asyncio.sleep(0)
        others[0].cancel()
        go_on.set()
        return [await first, *[await other for other in others[1:]]]

    assert asyncio.run(scenario()) == ["1 in read 1", "1 in read 2", "2 in read 2", None, "3 in read 3"]
    assert reads == [[1], [1, 2, -1], [3]]


def test_a_failure_is_told_and_the_next_look_reads_again() -> None:
    failures = [OSError("away")]

    def read(keys: Sequence[int]) -> dict[int, int]:
        if failures:
            raise failures.pop()
        return {key: key for key in keys}

    async def scenario() -> None:
        looks = SharedLooks(read, most=10)
        asked = [asyncio.create_task(looks.look(key)) for key in (1, 2)]
        for one in asked:
            with pytest.raises(OSError, match="away"):
                await one
        assert await looks.look(1) == 1

    asyncio.run(scenario())
