"""The clock that a worker and its trainer share for deadlines."""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since the machine started. Unlike the monotonic clock, it continues while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
