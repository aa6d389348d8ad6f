"""Streams of server-sent events (WHATWG HTML, section 9.2): an answer that goes on until what it tells has finished."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Header, Response
from sqlalchemy.exc import SQLAlchemyError
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus, SendTimeoutError
from starlette.types import Receive, Scope, Send

from api.http.accept import VARY
from api.http.long_polls import LOOK_SECONDS, LongPolls
from api.http.numbers import WholeNumber
from api.http.stream_slots import StreamSlots
from jobs.database.outages import first_line, is_outage
from jobs.errors import NotFound

EVENT_STREAM = "text/event-stream"
RETRY_MS = 1000
"""How long a client waits before it connects again."""
SECONDS_BETWEEN_STATES = 1.0
"""The state is sent at most this often; events are sent at once."""
KEEP_ALIVE_SECONDS = 15
"""Without events a comment is sent this often, so that proxies keep the connection and a client that is gone is
noticed."""
LONGEST_STREAM_SECONDS = 900.0
"""Then the client must connect again, and its key is checked again."""
SEND_SECONDS = 5.0
"""A client that takes nothing for so long, while its buffers are full, is given up. It also holds up the end of the
server for so long."""
SEPARATOR = "\n"

LastEventId = Annotated[
    WholeNumber | None,
    Header(alias="Last-Event-ID", ge=0, le=2**62, description="The `id` of the last event that you have."),
]

log = structlog.get_logger()

# sse-starlette would end the streams of all servers of the process when one of them is told to stop, and those of later
# servers too. Here `LongPolls.stop` ends them.
AppStatus.enable_automatic_graceful_drain = False


@dataclass(frozen=True)
class Look:
    """What a look at the ledger found for a stream."""

    events: Sequence[ServerSentEvent]
    """Those that the stream has not sent yet, the oldest first."""
    state: str
    """As JSON; sent when it has changed."""
    finished: bool
    """Whether nothing will change after these events."""
    more: bool = False
    """Whether there are more events already."""


class _Stream(EventSourceResponse):
    slots: StreamSlots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Problem 429."""
        try:
            with self.slots.taken(scope["state"]["caller"].owner):
                await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("a client takes nothing; its stream ends")


async def stream_events(polls: LongPolls, topic: str, look: Callable[[], Awaitable[Look]], *, name: str) -> Response:
    """The events that `look` finds, its state as event `name`, and `end` after the last ones.

    `look` is called again at each change of `topic`; the stream holds no connection to the ledger in between. What the
    first look raises is answered as for any request. Later a thing that is gone ends the stream, and so does an outage:
    the client connects again and gets the answer that fits.
    """
    first = await look()
    stream = _Stream(
        _send(polls, topic, look, first, name),
        headers={"Cache-Control": "no-cache", **VARY},
        ping=KEEP_ALIVE_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep=SEPARATOR),
        send_timeout=SEND_SECONDS,
        sep=SEPARATOR,
    )
    stream.slots = polls.stream_slots
    return stream


async def _send(
    polls: LongPolls, topic: str, look: Callable[[], Awaitable[Look]], first: Look, name: str
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(retry=RETRY_MS, sep=SEPARATOR)
    ends_at = time.monotonic() + LONGEST_STREAM_SECONDS
    found, sent, sent_at = first, "", -SECONDS_BETWEEN_STATES
    with polls.subscribe(topic) as subscription:
        while True:
            for event in found.events:
                yield event
            now = time.monotonic()
            is_last = found.finished and not found.more
            waits = sent_at + SECONDS_BETWEEN_STATES - now
            if found.state != sent and (waits <= 0 or is_last):
                yield ServerSentEvent(found.state, event=name, sep=SEPARATOR)
                sent, sent_at = found.state, now
            if is_last:
                yield ServerSentEvent(found.state, event="end", sep=SEPARATOR)
                return
            if polls.stopping or now >= ends_at:
                return
            if not found.more and found is not first:  # nobody subscribed before the first look
                await subscription.changed(waits if found.state != sent else _until_next_look(now))
            if polls.stopping:
                return
            try:
                found = await look()
            except NotFound:
                return
            except SQLAlchemyError as failure:
                if not is_outage(failure):
                    raise
                log.warning("ledger out of reach; a stream ends", error=first_line(failure))
                return


def _until_next_look(now: float) -> float:
    """Seconds. All streams look at the same moments, so that they can share a look."""
    return LOOK_SECONDS - now % LOOK_SECONDS
