"""Long polls: an answer held back until what it tells has changed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

from fastapi import Query
from prometheus_client import Gauge

from api.http.numbers import WholeNumber
from api.http.request_log import mark_held
from api.http.stream_slots import StreamSlots
from jobs.database.notifications import Listener, Subscription

T = TypeVar("T")

LONGEST_WAIT = 30
LOOK_SECONDS = 5.0
"""Some things change without a notification, as a position in the queue."""

Wait = Annotated[
    WholeNumber,
    Query(ge=0, le=LONGEST_WAIT, description="Seconds to hold the answer until there is something new; 0 answers now."),
]


class LongPolls:
    """The waiting requests of one process."""

    def __init__(self, listener: Listener, open_polls: Gauge) -> None:
        """`open_polls` tells how many requests wait now."""
        self._listener = listener
        self._open = open_polls
        self._stopping = False
        self.stream_slots = StreamSlots()

    def stop(self) -> None:
        """Let everyone answer now: the process is about to end."""
        self._stopping = True
        self._listener.wake_all()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def subscribe(self, topic: str) -> Subscription:
        """For one who waits longer than a request with `wait`, and looks at `stopping` after each wake-up."""
        return self._listener.subscribe(topic)

    async def until(self, topic: str, seconds: float, look: Callable[[], Awaitable[T]], done: Callable[[T], bool]) -> T:
        """Look again at each change of `topic` until `done` holds or the time is up; the last look's value."""
        end = time.monotonic() + seconds
        if seconds > 0:
            mark_held()
        with self._listener.subscribe(topic) as subscription, self._counted(seconds):
            while True:
                value = await look()
                left = end - time.monotonic()
                if left <= 0 or self._stopping or done(value):
                    return value
                await subscription.changed(min(left, LOOK_SECONDS))

    @contextmanager
    def _counted(self, seconds: float) -> Iterator[None]:
        if seconds <= 0:
            yield
            return
        with self._open.track_inprogress():
            yield
