"""PostgreSQL wakes those who wait for a change: NOTIFY in the changing transaction, one LISTEN per process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import psycopg
import structlog
from psycopg.rows import TupleRow
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from jobs.database.connection import connection_string
from jobs.side_task import SideTask

CHANNEL = "lit"
RECONNECT_SECONDS = 1.0
CONFIRM_SECONDS = 1.0
"""How often a listening connection is asked for an answer."""
TRUSTED_SECONDS = 3.0
"""For so long after an answer it is taken for granted that a notification would have come."""
STOP_LOOK_SECONDS = 0.5
"""How often a listening thread checks whether it must stop."""

log = structlog.get_logger()


def notify(session: Session, topic: str) -> None:
    """Wake those who wait for `topic` (mostly the id of a job, study or upload) once this transaction has committed."""
    session.execute(select(func.pg_notify(CHANNEL, topic)))


class Observer(Protocol):
    """Who wants to know of every notification."""

    def changed(self, topic: str) -> None:
        """`topic` was notified."""

    def all_changed(self) -> None:
        """Any topic may have been notified."""


class Listener:
    """Wakes coroutines of one process. A wait may end without a change, so waiters always look again."""

    def __init__(self, database_url: str) -> None:
        self._conninfo = connection_string(database_url)
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._observers: list[Observer] = []
        self._task: asyncio.Task[None] | None = None
        self._confirmed_at: float | None = None
        """All notifications up to then have come, by `time.monotonic`; None: there is no connection."""

    @property
    def is_live(self) -> bool:
        """Whether every change that was committed more than TRUSTED_SECONDS ago has been told here.

        Without it, what was read before may have changed without a word.
        """
        return self._confirmed_at is not None and time.monotonic() - self._confirmed_at < TRUSTED_SECONDS

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._listen(), name="ledger-notifications")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self.wake_all()

    def subscribe(self, topic: str) -> Subscription:
        """Begin to collect wake-ups for `topic`. Subscribe before looking, so that no change is missed in between."""
        return Subscription(self._waiters, topic)

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (psycopg.Error, OSError) as failure:
                log.warning("no notifications from the ledger; connecting again", error=str(failure).strip())
            except Exception:
                with suppress(Exception):
                    log.exception("no notifications from the ledger; connecting again")
            # Notifications may have been missed in between, so every waiter looks again.
            self.wake_all()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        try:
            async with connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                self.wake_all()
                while True:
                    await self._hear(connection)
        finally:
            self._confirmed_at = None

    async def _hear(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        """Confirm that the connection works, and take what comes for CONFIRM_SECONDS.

        The server sends the notifications of earlier commits before it answers a statement, here one that changes
        nothing. A connection that is cut off without a word gives no answer.
        """
        asked_at = time.monotonic()
        await connection.execute(f"LISTEN {CHANNEL}")
        async for notification in connection.notifies(timeout=0):
            self._tell(notification.payload)
        self._confirmed_at = asked_at
        async for notification in connection.notifies(timeout=CONFIRM_SECONDS):
            self._tell(notification.payload)

    def _tell(self, topic: str) -> None:
        for observer in self._observers:
            observer.changed(topic)
        for event in self._waiters.get(topic, ()):
            event.set()

    def wake_all(self) -> None:
        """Let every waiter look again, whatever it waits for."""
        for observer in self._observers:
            observer.all_changed()
        for waiters in self._waiters.values():
            for event in waiters:
                event.set()


class Subscription:
    """One waiter's subscription to one topic, as a context manager."""

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
        """Wait for the next change, or for one since the last call. False if none came within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class TopicListener:
    """A thread that calls `wake` when `topic` may have been notified.

    It also calls `wake` after every new connection, because notifications are lost while there is no connection.
    """

    def __init__(self, database_url: str, topic: str, wake: Callable[[], None]) -> None:
        self._conninfo = connection_string(database_url)
        self._topic = topic
        self._wake = wake
        self._task = SideTask("ledger-notifications", self._listen)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        self._task.stop(STOP_LOOK_SECONDS + 5)

    def _listen(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                self._listen_once(stopped)
            except (psycopg.Error, OSError) as failure:
                log.warning("no notifications from the ledger; connecting again", error=str(failure).strip())
            stopped.wait(RECONNECT_SECONDS)

    def _listen_once(self, stopped: threading.Event) -> None:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            self._wake()
            while not stopped.is_set():
                for notification in connection.notifies(timeout=STOP_LOOK_SECONDS):
                    if notification.payload == self._topic:
                        self._wake()
