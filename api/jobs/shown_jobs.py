"""What GET answers about jobs, kept as it was sent.

A finished job changes seldom: its answer is kept until a notification says that it may have changed. That of any other
job is kept together with a stamp of its rows, and used as long as the ledger has the same stamp, so that nobody ever
reads an older state than the ledger has.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from api.http.shown_answers import ShownAnswer
from jobs.database.connection import Database
from jobs.database.notifications import Listener
from jobs.database.notified_cache import NotifiedCache
from jobs.errors import NotFound
from jobs.ledger.stamps import OwnedJob, Stamp, stamps
from lit_spec.answers.jobs import Job

KEPT_JOBS = 4096
"""Of finished jobs, and of others. An answer has 3 to 10 kB."""
WAITING_SECONDS = 1.0
"""For so long the place in the queue is taken for the same: it changes without a change of the job."""


@dataclass(frozen=True)
class _Stamped:
    stamp: Stamp
    shown: ShownAnswer
    until: float
    """By `time.monotonic`."""


class ShownJobs:
    """The answers of one process. Its methods belong to the event loop."""

    def __init__(self, database: Database, listener: Listener) -> None:
        self._finished: NotifiedCache[OwnedJob, ShownAnswer] = NotifiedCache(listener, KEPT_JOBS)
        self._stamped: OrderedDict[OwnedJob, _Stamped] = OrderedDict()
        self._looks = _Looks(database)

    async def known(self, job: OwnedJob) -> ShownAnswer | None:
        """The newest answer, if it need not be made; None: read the job with `read`."""
        if (finished := self._finished.get(job)) is not None:
            return finished
        if job not in self._stamped:
            return None
        stamp = await self._looks.stamp(job)
        kept = self._stamped.get(job)
        return kept.shown if kept is not None and kept.stamp == stamp and time.monotonic() < kept.until else None

    async def read(self, job: OwnedJob, look: Callable[[], Job]) -> ShownAnswer:
        """The answer, made of what `look` finds, which blocks and raises NotFound. Raises NotFound."""
        with self._finished.reading(topic=job[1]) as reading:
            stamp = await self._looks.stamp(job)
            if stamp is None:
                raise NotFound("job", job[1])
            found = await run_in_threadpool(look)
            shown = ShownAnswer.of(found, finished=found.state.finished)
            if shown.finished:
                reading.keep(job, shown)
                self._stamped.pop(job, None)
            else:
                self._keep(job, _Stamped(stamp, shown, _usable_until(found)))
        return shown

    def forget(self, job_id: str) -> None:
        """This process has changed the job: its next answer must show that, whenever the notification comes."""
        self._finished.changed(job_id)

    def _keep(self, job: OwnedJob, stamped: _Stamped) -> None:
        self._stamped.pop(job, None)
        self._stamped[job] = stamped
        while len(self._stamped) > KEPT_JOBS:
            self._stamped.popitem(last=False)


def _usable_until(job: Job) -> float:
    return float("inf") if job.waiting is None else time.monotonic() + WAITING_SECONDS


class _Looks:
    """Looks for stamps: one query at a time, for all who have asked since the last one began."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: dict[OwnedJob, asyncio.Future[Stamp | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def stamp(self, job: OwnedJob) -> Stamp | None:
        """None: the owner has no such job."""
        if (answer := self._asked.get(job)) is None:
            answer = self._asked[job] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        # Several may wait for it, and one of them may be cancelled.
        return await asyncio.shield(answer)

    async def _look(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                try:
                    found = await run_in_threadpool(self._read, list(asked))
                except Exception as failure:  # noqa: BLE001 - raised where it was asked for
                    for answer in asked.values():
                        answer.set_exception(failure)
                else:
                    for job, answer in asked.items():
                        answer.set_result(found.get(job))
        finally:
            self._task = None

    def _read(self, asked: list[OwnedJob]) -> dict[OwnedJob, Stamp]:
        with self._database.reading() as session:
            return stamps(session, asked)
