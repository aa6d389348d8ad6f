"""Lookups of names, in threads. A resolver may keep a thread for long, whatever its caller waits.

So no owner gets more than a few of the threads, and what finds none free says so instead of blaming the name.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import AbstractEventLoop, Semaphore
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from weakref import WeakValueDictionary

Resolve = Callable[[str], Sequence[str]]
"""The addresses of a host name. It blocks, and raises OSError if there are none."""

RESOLVE_SECONDS = 5.0
"""For the wait for a thread and the lookup together."""
THREADS = 64
PER_OWNER = 4


class LookupsBusy(Exception):
    """No thread became free in time. It says nothing about the name: try again."""


class SlowLookup(Exception):
    """The resolver did not answer within RESOLVE_SECONDS."""


def resolve(host: str) -> list[str]:
    """By the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Lookups:
    """Threads for lookups, for one purpose. Threads are made as they are needed."""

    def __init__(self, resolve: Resolve = resolve) -> None:
        self._resolve = resolve
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook-lookups")
        self._turns: WeakValueDictionary[str, Semaphore] = WeakValueDictionary()

    async def look_up(self, owner: str, host: str) -> Sequence[str]:
        """Raises OSError, UnicodeError, SlowLookup and LookupsBusy."""
        turn = self._turns.setdefault(owner, Semaphore(PER_OWNER))
        lookup: Future[Sequence[str]] | None = None
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                await turn.acquire()
                lookup = self._begin(host, turn)
                return await asyncio.wrap_future(lookup)
        except TimeoutError as late:
            if lookup is None or lookup.cancelled():  # it has not begun
                raise LookupsBusy from late
            raise SlowLookup from late

    def _begin(self, host: str, turn: Semaphore) -> Future[Sequence[str]]:
        loop = asyncio.get_running_loop()
        lookup = self._threads.submit(self._resolve, host)
        # Not when the caller gives up, but when the thread is free.
        lookup.add_done_callback(lambda _: _release(loop, turn))
        return lookup


def _release(loop: AbstractEventLoop, turn: Semaphore) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(turn.release)
