"""Jobs as lists show them, kept as they were sent: whoever lists jobs mostly sees those that were there before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.jobs.schemas import show_job
from jobs.ledger import owned_jobs
from jobs.ledger.stamps import Stamp, StampedJob
from jobs.tracking import runs

KEPT_JOBS = 4096
"""An answer has 3 to 10 kB."""


@dataclass(frozen=True)
class _Shown:
    stamp: Stamp
    content: bytes
    """JSON."""


class ListedJobs:
    """The answers of one process. Its methods may be called by any thread."""

    def __init__(self, retention_days: float | None) -> None:
        """`retention_days`: how long the files of finished jobs stay."""
        self._days = retention_days
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Shown] = OrderedDict()

    def show(self, session: Session, stamped: Sequence[StampedJob]) -> list[bytes]:
        """The JSON of each of these jobs, without those that were deleted since their stamps were read."""
        known = self._known(stamped)
        known |= self._read(session, [job for job in stamped if job.id not in known])
        return [known[job.id] for job in stamped if job.id in known]

    def _known(self, stamped: Sequence[StampedJob]) -> dict[str, bytes]:
        found = {}
        with self._lock:
            for job in stamped:
                shown = self._kept.get(job.id)
                if shown is not None and shown.stamp == job.stamp:
                    self._kept.move_to_end(job.id)
                    found[job.id] = shown.content
        return found

    def _read(self, session: Session, changed: Sequence[StampedJob]) -> dict[str, bytes]:
        if not changed:
            return {}
        ids = [job.id for job in changed]
        tracked = runs.of_jobs(session, ids)
        found = {
            row.id: show_job(row, self._days, run=tracked.get(row.id)).model_dump_json().encode()
            for row in owned_jobs.find_listed(session, ids)
        }
        with self._lock:
            # What was read may be newer than its stamp, and is then read again for the next list.
            self._kept.update((job.id, _Shown(job.stamp, found[job.id])) for job in changed if job.id in found)
            while len(self._kept) > KEPT_JOBS:
                self._kept.popitem(last=False)
        return found
