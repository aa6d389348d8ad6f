"""How long a worker that has a fault claims nothing."""

from __future__ import annotations

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 300.0


class Backoff:
    """Pauses that double with every fault. They start again at the shortest after a job without a fault."""

    def __init__(self) -> None:
        self._seconds = FIRST_SECONDS

    def next(self) -> float:
        """Seconds to wait after another fault."""
        seconds = self._seconds
        self._seconds = min(2 * seconds, LONGEST_SECONDS)
        return seconds

    def reset(self) -> None:
        self._seconds = FIRST_SECONDS
