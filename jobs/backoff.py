"""Pauses after failures."""

from __future__ import annotations

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 300.0


class Backoff:
    """Pauses that double with every failure in a row. After a success they start again at the shortest."""

    def __init__(self, longest_seconds: float = LONGEST_SECONDS) -> None:
        self._longest = longest_seconds
        self._seconds = FIRST_SECONDS

    def next(self) -> float:
        """Seconds to wait after another failure."""
        seconds = min(self._seconds, self._longest)
        self._seconds = min(2 * seconds, self._longest)
        return seconds

    def reset(self) -> None:
        self._seconds = FIRST_SECONDS
