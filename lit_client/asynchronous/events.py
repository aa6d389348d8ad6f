"""A job's events as the service tells them: a stream that is connected again when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator

import httpx
from pydantic import ValidationError

from lit_client.addresses import path_to
from lit_client.asynchronous.connection import AsyncConnection
from lit_client.errors import ProblemError, StreamUnavailable, UnexpectedAnswer
from lit_client.events import END, EVENT_STREAM, ServerSentEvent, StreamParser, parse_event
from lit_spec.answers.jobs import Event, JobLive

KEEP_ALIVE_SECONDS = 15.0
"""How often the service sends at least a comment."""


async def stream_events(connection: AsyncConnection, job_id: str, after: int) -> AsyncIterator[Event | JobLive]:
    """Every event after a number, and between them the job's state and progress, until the job has finished.

    When the connection breaks or the service restarts, the stream goes on after the last event that has come. Raises
    ProblemError, ServiceUnreachable after `connection.retries` tries without an event, and UnexpectedAnswer.
    """
    failures = 0
    while True:
        try:
            async for told in stream_once(connection, job_id, after):
                failures = 0
                if told is None:
                    return
                if isinstance(told, Event):
                    after = told.seq
                yield told
        except httpx.TransportError as error:
            if failures >= connection.retries:
                raise connection.unreachable(error) from error
        except ProblemError as problem:
            if failures >= connection.retries or not problem.temporary:
                raise
        # The service also ends a stream before the job has finished, as when it stops or when the stream is long.
        await asyncio.sleep(connection.pause(failures))
        failures += 1


async def stream_once(
    connection: AsyncConnection, job_id: str, after: int
) -> AsyncGenerator[Event | JobLive | None, None]:
    """What one connection tells; None at the end of the job.

    Raises httpx.TransportError, ProblemError, StreamUnavailable, UnexpectedAnswer.
    """
    headers = {"Accept": EVENT_STREAM, "Cache-Control": "no-store"} | ({"Last-Event-ID": str(after)} if after else {})
    async with connection.stream(path_to("jobs", job_id, "events"), headers, silence=KEEP_ALIVE_SECONDS) as response:
        if not response.is_success:
            await response.aread()
            raise ProblemError.from_response(response)
        if not response.headers.get("Content-Type", "").startswith(EVENT_STREAM):
            raise StreamUnavailable(
                f"{response.request.url} answered with {response.headers.get('Content-Type')}, not with a stream of "
                "events: use Client.follow with this service, which is older."
            )
        async for event in _read(response.aiter_bytes()):
            if event.event == END and event.id is None:
                yield None
                return
            try:
                yield parse_event(event)
            except ValidationError as error:
                raise UnexpectedAnswer(
                    f"{response.request.url} sent an event that is not as LIT's are: {error.errors()[0]['msg']}."
                ) from error


async def _read(pieces: AsyncIterable[bytes]) -> AsyncIterator[ServerSentEvent]:
    parser = StreamParser()
    async for piece in pieces:
        for event in parser.feed(piece):
            yield event
