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

KEPT_BYTES = 32 << 20
"""An answer has 3 to 10 kB, but where a request names thousands of classes it may have more than 1 MB."""


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
        self._bytes = 0

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
            for job in changed:
                if job.id in found:
                    self._keep(job.id, _Shown(job.stamp, found[job.id]))
        return found

    def _keep(self, job_id: str, shown: _Shown) -> None:
        if (before := self._kept.pop(job_id, None)) is not None:
            self._bytes -= len(before.content)
        self._kept[job_id] = shown
        self._bytes += len(shown.content)
        while self._bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.content)
