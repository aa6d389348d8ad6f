"""A job's events as the service tells them: a stream of server-sent events that is connected again when it breaks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from lit_client.connection import TEMPORARY, Connection, path_to
from lit_client.errors import ProblemError, UnexpectedAnswer
from lit_spec.answers.jobs import Event, JobLive

EVENT_STREAM = "text/event-stream"
PROGRESS, END = "progress", "end"


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream (WHATWG HTML, section 9.2.6)."""

    event: str
    data: str
    id: str | None
    """Only of an event that has one itself."""


class StreamParser:
    """Makes events of the bytes of a stream, in whatever pieces they come. What is cut off at the end is no event."""

    def __init__(self) -> None:
        self._rest = b""
        self._begin()

    def feed(self, content: bytes) -> Iterator[ServerSentEvent]:
        """The events that are complete with these bytes."""
        # Not splitlines of str, which also splits at characters that JSON may contain.
        lines = (self._rest + content).splitlines(keepends=True)
        self._rest = b""
        for number, line in enumerate(lines):
            # A lone CR at the end may be the first half of CRLF.
            if number == len(lines) - 1 and not line.endswith(b"\n"):
                self._rest = line
                return
            if (event := self._take(line.rstrip(b"\r\n").decode(errors="replace"))) is not None:
                yield event

    def _begin(self) -> None:
        self._event = ""
        self._id: str | None = None
        self._data: list[str] = []

    def _take(self, line: str) -> ServerSentEvent | None:
        if not line:
            found = ServerSentEvent(self._event or "message", "\n".join(self._data), self._id) if self._data else None
            self._begin()
            return found
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id":
                self._id = value
        return None


def stream_events(connection: Connection, job_id: str, after: int) -> Iterator[Event | JobLive]:
    """Every event after a number, and between them the job's state and progress, until the job has finished.

    When the connection breaks or the service restarts, the stream goes on after the last event that has come. Raises
    ProblemError, ServiceUnreachable after `connection.retries` tries without an event, and UnexpectedAnswer.
    """
    failures = 0
    while True:
        try:
            for told in _stream_once(connection, job_id, after):
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
            if failures >= connection.retries or problem.status not in TEMPORARY:
                raise
        # The service also ends a stream before the job has finished, as when it stops or when the stream is long.
        time.sleep(connection.pause(failures))
        failures += 1


def _stream_once(connection: Connection, job_id: str, after: int) -> Iterator[Event | JobLive | None]:
    """What one connection tells; None at the end of the job."""
    headers = {"Accept": EVENT_STREAM, "Cache-Control": "no-store"} | ({"Last-Event-ID": str(after)} if after else {})
    with connection.stream(path_to("jobs", job_id, "events"), headers) as response:
        if not response.is_success:
            response.read()
            raise ProblemError.from_response(response)
        if not response.headers.get("Content-Type", "").startswith(EVENT_STREAM):
            raise UnexpectedAnswer(
                f"{response.request.url} answered with {response.headers.get('Content-Type')}, not with a stream of "
                "events: use Client.follow with this service, which is older."
            )
        for event in _read(response.iter_bytes()):
            if event.event == END and event.id is None:
                yield None
                return
            try:
                yield _parse(event)
            except ValidationError as error:
                raise UnexpectedAnswer(
                    f"{response.request.url} sent an event that is not as LIT's are: {error.errors()[0]['msg']}."
                ) from error


def _read(pieces: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    parser = StreamParser()
    for piece in pieces:
        yield from parser.feed(piece)


def _parse(event: ServerSentEvent) -> Event | JobLive:
    """An event of the job has an id, what is told about the job itself has none. Raises pydantic.ValidationError."""
    content = event.data.encode()
    return JobLive.read(content) if event.id is None else Event.read(content)
