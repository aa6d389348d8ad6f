"""The events of a job as a stream."""

from __future__ import annotations

from sse_starlette import ServerSentEvent

from api.http.event_streams import SEPARATOR, Look
from api.jobs.schemas import show_event, show_live
from jobs.database.connection import Database
from jobs.ledger import owned_jobs

EVENTS_PER_LOOK = 500


class JobEvents:
    """Finds what a stream of one job has not sent yet."""

    def __init__(self, database: Database, owner: str, job_id: str, after: int) -> None:
        self._database = database
        self._owner = owner
        self._job_id = job_id
        self._after = after

    def look(self) -> Look:
        """The events since the last look. Raises NotFound."""
        with self._database.session() as session:
            # Before its events, so that the last events of a finished job are among them.
            job = owned_jobs.get(session, self._owner, self._job_id)
            live = show_live(job)
            found = [
                show_event(event)
                for event in owned_jobs.events_after(session, self._job_id, self._after, EVENTS_PER_LOOK)
            ]
        if found:
            self._after = found[-1].seq
        events = [
            ServerSentEvent(event.model_dump_json(), id=str(event.seq), event=event.type, sep=SEPARATOR)
            for event in found
        ]
        more = len(found) == EVENTS_PER_LOOK
        return Look(events, live.model_dump_json(), finished=live.state.finished, more=more)
