"""What GET answers about jobs, kept as it was sent until a notification says that the job may have changed.

Every change of a job that a reader can see is notified in its own transaction. So an answer may be older than the
ledger by as long as a notification takes; while none would come, nothing is known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from fastapi.concurrency import run_in_threadpool

from api.http.shown_answers import ShownAnswer
from jobs.database.notifications import Listener
from jobs.database.notified_cache import NotifiedCache, Reading
from lit_spec.answers.jobs import Job

OwnedJob = tuple[str, str]
"""Owner and id."""

KEPT_BYTES = 64 << 20
"""An answer has 3 to 10 kB, but where a request names thousands of classes it may have more than 1 MB."""
WAITING_SECONDS = 1.0
"""For so long the place in the queue is taken for the same: it changes without a change of the job."""


class ShownJobs:
    """The answers of one process. Its methods belong to the event loop."""

    def __init__(self, listener: Listener) -> None:
        self._answers: NotifiedCache[OwnedJob, ShownAnswer] = NotifiedCache(
            listener, KEPT_BYTES, lambda shown: len(shown.content)
        )
        self._looks: dict[OwnedJob, _Look] = {}

    def known(self, job: OwnedJob) -> ShownAnswer | None:
        """The answer, if it need not be made; None: read the job with `read`."""
        return self._answers.get(job)

    async def read(self, job: OwnedJob, look: Callable[[], Job]) -> ShownAnswer:
        """The answer, made of what `look` finds, which blocks and raises NotFound.

        Those who ask for the same job at the same time share one look. Raises NotFound.
        """
        shared = self._looks.get(job)
        if shared is None or not shared.sees_all:
            shared = self._looks[job] = _Look(self._answers, job, look)
            shared.answer.add_done_callback(partial(self._end, job, shared))
        # One of those who wait for it may be cancelled.
        return await asyncio.shield(shared.answer)

    def forget(self, job_id: str) -> None:
        """This process has changed the job: its next answer must show that, whenever the notification comes."""
        self._answers.changed(job_id)

    def forget_all(self) -> None:
        """Like `forget`, for a change of many jobs."""
        self._answers.all_changed()

    def _end(self, job: OwnedJob, look: _Look, answer: asyncio.Task[ShownAnswer]) -> None:
        if self._looks.get(job) is look:
            del self._looks[job]
        if not answer.cancelled():
            # Else asyncio complains about a failure that nobody waits for any more.
            answer.exception()


class _Look:
    """A look at the ledger that several may share."""

    def __init__(self, answers: NotifiedCache[OwnedJob, ShownAnswer], job: OwnedJob, look: Callable[[], Job]) -> None:
        self._reading: Reading[OwnedJob, ShownAnswer] | None = None
        """None: it has not begun."""
        self.answer = asyncio.create_task(self._make(answers, job, look))

    @property
    def sees_all(self) -> bool:
        """Whether it shows everything that was told until now."""
        return self._reading is None or self._reading.is_current

    async def _make(
        self, answers: NotifiedCache[OwnedJob, ShownAnswer], job: OwnedJob, look: Callable[[], Job]
    ) -> ShownAnswer:
        with answers.reading(topic=job[1]) as self._reading:
            found = await run_in_threadpool(look)
            shown = ShownAnswer.of(found, finished=found.state.finished)
            self._reading.keep(job, shown, float("inf") if found.waiting is None else WAITING_SECONDS)
        return shown
