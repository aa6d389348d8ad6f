"""How many streams of events may be open: of one owner, and in one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from api.http.problems import Problem

STREAMS_OF_OWNER = 100
STREAMS_OF_PROCESS = 1000
RETRY_SECONDS = 10


class StreamSlots:
    """The open streams of one process. Each looks at the ledger at every change, in threads that all requests use."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def taken(self, owner: str) -> Iterator[None]:
        """One more stream of the owner is open. Raises Problem 429."""
        if self._open[owner] >= STREAMS_OF_OWNER:
            raise _too_many(f"you have {STREAMS_OF_OWNER} streams of events open: close some")
        if self._open.total() >= STREAMS_OF_PROCESS:
            raise _too_many(
                f"the service has {STREAMS_OF_PROCESS} streams of events open: try again, or ask with `wait`"
            )
        self._open[owner] += 1
        try:
            yield
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]


def _too_many(detail: str) -> Problem:
    return Problem(429, "too-many-streams", detail, headers={"Retry-After": str(RETRY_SECONDS)})
