"""Looks at the ledger that many requests share: one query at a time, for all who have asked since the last began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

from fastapi.concurrency import run_in_threadpool

KeyT = TypeVar("KeyT", bound=Hashable)
FoundT = TypeVar("FoundT")


class SharedLooks(Generic[KeyT, FoundT]):
    """Its methods belong to the event loop."""

    def __init__(self, read: Callable[[Sequence[KeyT]], Mapping[KeyT, FoundT]], most: int) -> None:
        """`read` blocks, and finds what there is of these keys. It is given `most` keys at once at most."""
        self._read = read
        self._most = most
        self._asked: dict[KeyT, asyncio.Future[FoundT | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def look(self, key: KeyT) -> FoundT | None:
        """What a read that begins later finds; None: nothing. Raises what the read has raised."""
        if (answer := self._asked.get(key)) is None:
            answer = self._asked[key] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        # Several may wait for it, and one of them may be cancelled.
        return await asyncio.shield(answer)

    async def _read_all(self) -> None:
        try:
            while self._asked:
                asked = {key: self._asked.pop(key) for key in list(islice(self._asked, self._most))}
                try:
                    found = await run_in_threadpool(self._read, list(asked))
                except Exception as failure:  # noqa: BLE001 - raised where it was asked for
                    for answer in asked.values():
                        answer.set_exception(failure)
                        # Else asyncio complains about one that nobody waits for any more.
                        answer.exception()
                else:
                    for key, answer in asked.items():
                        answer.set_result(found.get(key))
        finally:
            self._reading = None
