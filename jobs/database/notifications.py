"""Who waits for a change is woken by PostgreSQL: NOTIFY in the changing transaction, one LISTEN a process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress

import psycopg
import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from jobs.database.connection import connection_string

CHANNEL = "lit"
RECONNECT_SECONDS = 1.0

log = structlog.get_logger()


def notify(session: Session, topic: str) -> None:
    """Wake, once this transaction has committed, those who wait for `topic` (a job's or an upload's id)."""
    session.execute(select(func.pg_notify(CHANNEL, topic)))


class Listener:
    """Wakes coroutines of one process. Waits may end early for nothing, so waiters look again."""

    def __init__(self, database_url: str) -> None:
        self._conninfo = connection_string(database_url)
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._listen(), name="ledger-notifications")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self.wake_all()

    def subscribe(self, topic: str) -> Subscription:
        """Begin to collect wake-ups for `topic`: to be done before looking, so that no change falls in between."""
        return Subscription(self._waiters, topic)

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (psycopg.Error, OSError) as failure:
                log.warning("no notifications from the ledger; connecting again", error=str(failure).strip())
            # What was missed in between is unknown: let everyone look.
            self.wake_all()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self.wake_all()
            async for notification in connection.notifies():
                for event in self._waiters.get(notification.payload, ()):
                    event.set()

    def wake_all(self) -> None:
        """Let every waiter look, whatever it waits for."""
        for waiters in self._waiters.values():
            for event in waiters:
                event.set()


class Subscription:
    """One waiter's ear on one topic, as a context."""

    def __init__(self, waiters: dict[str, set[asyncio.Event]], topic: str) -> None:
        self._waiters = waiters
        self._topic = topic
        self._event = asyncio.Event()

    def __enter__(self) -> Subscription:
        self._waiters[self._topic].add(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        waiters = self._waiters[self._topic]
        waiters.discard(self._event)
        if not waiters:
            del self._waiters[self._topic]

    async def changed(self, timeout: float) -> bool:
        """Wait for the next change, or one since the last call. False when `timeout` seconds brought none."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
