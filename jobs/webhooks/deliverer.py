"""Delivers the messages for webhooks. Each API process has one Deliverer; they share the work by the ledger's locks.

No transaction is open while a message is sent. A process that stops or dies in between loses nothing: its claims are
due again after their lease, so a receiver may get a message twice, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy.orm import Session

from jobs.backoff import Backoff
from jobs.database.connection import Database
from jobs.database.notifications import Listener, Subscription
from jobs.database.outages import first_line, is_outage
from jobs.webhooks import claims, deliveries
from jobs.webhooks.claims import DeliveryClaim
from jobs.webhooks.deliveries import AttemptResult
from jobs.webhooks.lookups import LookupsBusy
from jobs.webhooks.outbox import TOPIC
from jobs.webhooks.sender import Sender

T = TypeVar("T")

AT_A_TIME = 64
LOOK_SECONDS = 5.0
"""The longest pause between two looks, in case a notification was lost."""
OVERDUE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STOP_SECONDS = 3.0
"""How long attempts under way may take when the process stops."""

log = structlog.get_logger()


class Deliverer:
    """Sends what is due, in the event loop that starts it. `listener` belongs to the same loop."""

    def __init__(self, database: Database, listener: Listener, sender: Sender) -> None:
        self._database = database
        self._listener = listener
        self._sender = sender
        self._under_way: dict[asyncio.Task[None], DeliveryClaim] = {}
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # Threads of its own, so that neither requests nor lookups of names keep results from being recorded.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="webhook-deliveries")

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_delivering(), name="webhook-deliveries")

    async def stop(self) -> None:
        """Claim nothing more, and give the attempts under way a moment to end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        under_way = list(self._under_way)
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._threads.shutdown), STOP_SECONDS)

    async def _keep_delivering(self) -> None:
        backoff = Backoff(LONGEST_PAUSE_SECONDS)
        with self._listener.subscribe(TOPIC) as due:
            wakes = asyncio.create_task(self._wake_at(due), name="webhook-wakes")
            try:
                while True:
                    self._awake.clear()
                    try:
                        seconds = await self._deliver_due()
                    except Exception as failure:
                        if is_outage(failure):
                            log.warning("webhooks not delivered; trying again soon", error=first_line(failure))
                        else:
                            log.exception("webhooks not delivered; trying again soon")
                        await asyncio.sleep(backoff.next())
                    else:
                        backoff.reset()
                        await self._sleep(seconds)
            finally:
                wakes.cancel()

    async def _wake_at(self, due: Subscription) -> None:
        while True:
            if await due.changed(LOOK_SECONDS):
                self._awake.set()

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._awake.wait()

    async def _deliver_due(self) -> float:
        """Begin to send all that is due, as far as there is room; returns for how long there is nothing more to do."""
        under_way = list(self._under_way.values())

        def claim(session: Session) -> tuple[list[DeliveryClaim], float | None]:
            most = AT_A_TIME - len(under_way)
            return claims.claim(session, most, under_way), deliveries.next_due(session)

        claimed, seconds = await self._in_session(claim)
        for each in claimed:
            task = asyncio.create_task(self._attempt(each), name=f"webhook-{each.id}")
            self._under_way[task] = each
            task.add_done_callback(self._ended)
        # What is overdue waits for room, or another process is just claiming it.
        return LOOK_SECONDS if seconds is None else min(max(seconds, OVERDUE_SECONDS), LOOK_SECONDS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._awake.set()

    async def _attempt(self, claim: DeliveryClaim) -> None:
        try:
            result = await self._sender.send(claim)
        except LookupsBusy:
            log.warning("delivery put off: no thread was free to look the receiver's name up", delivery=claim.id)
            await self._write(claim, partial(deliveries.put_off, claim=claim))
            return
        except Exception:
            # Counted as a failure of the receiver: a message that is our own fault must not be sent for ever.
            log.exception("delivery failed", delivery=claim.id, webhook=claim.webhook_id)
            result = AttemptResult(datetime.now(UTC), 0.0, error="the service failed to send it: its log says why")
        await self._write(claim, partial(deliveries.record, claim=claim, result=result))

    async def _write(self, claim: DeliveryClaim, action: Callable[[Session], str | None]) -> None:
        """Record what became of an attempt. `action` returns why the webhook was disabled, if it was."""
        try:
            disabled = await self._in_session(action)
        except Exception as failure:
            # The claim's lease runs out, and the message is sent again.
            if is_outage(failure):
                log.warning("delivery not recorded", delivery=claim.id, error=first_line(failure))
            else:
                log.exception("delivery not recorded", delivery=claim.id)
        else:
            if disabled is not None:
                log.warning("webhook disabled", webhook=claim.webhook_id, reason=disabled)

    async def _in_session(self, action: Callable[[Session], T]) -> T:
        """What `action` returns, in a transaction of its own."""

        def run() -> T:
            with self._database.session() as session:
                return action(session)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)
