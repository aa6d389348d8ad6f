"""Reads streams of server-sent events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


def parse_event(event: ServerSentEvent) -> Event | JobLive:
    """An event of the job has an id, what is told about the job itself has none. Raises pydantic.ValidationError."""
    content = event.data.encode()
    return JobLive.read(content) if event.id is None else Event.read(content)
