"""The events of a job as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sse_starlette import ServerSentEvent

from api.http.event_streams import SEPARATOR, Look
from api.http.shared_looks import SharedLooks
from api.jobs.schemas import show_event, show_live
from jobs.database.connection import Database
from jobs.errors import NotFound
from jobs.ledger.new_events import News, Position, read_news

EVENTS_PER_LOOK = 500
JOBS_PER_LOOK = 50


@dataclass(frozen=True)
class _Found:
    look: Look
    position: Position
    """After these events."""


JobLooks = SharedLooks[Position, _Found]


def open_job_looks(database: Database) -> JobLooks:
    """The looks of all streams of one process: those that wait for the same change or the same moment share one."""

    def read(positions: Sequence[Position]) -> dict[Position, _Found]:
        with database.reading() as session:
            news = read_news(session, positions, EVENTS_PER_LOOK)
        return {position: _show(position, found) for position, found in news.items()}

    return SharedLooks(read, JOBS_PER_LOOK)


class JobEvents:
    """Finds what a stream of one job has not sent yet."""

    def __init__(self, looks: JobLooks, owner: str, job_id: str, after: int) -> None:
        self._looks = looks
        self._position = Position(owner, job_id, after)

    async def look(self) -> Look:
        """The events since the last look. Raises NotFound."""
        found = await self._looks.look(self._position)
        if found is None:
            raise NotFound("job", self._position.job_id)
        self._position = found.position
        return found.look


def _show(position: Position, news: News) -> _Found:
    live = show_live(news.job)
    shown = [show_event(event) for event in news.events]
    events = [
        ServerSentEvent(event.model_dump_json(), id=str(event.seq), event=event.type, sep=SEPARATOR) for event in shown
    ]
    more = len(shown) == EVENTS_PER_LOOK
    look = Look(events, live.model_dump_json(), finished=live.state.finished, more=more)
    return _Found(look, position._replace(after=shown[-1].seq) if shown else position)
