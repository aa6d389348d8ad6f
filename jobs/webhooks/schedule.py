"""When a message is sent again after an attempt that failed."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MINUTE, HOUR = 60.0, 3600.0
PAUSES = (5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR)
"""Seconds before each further attempt, as the Standard Webhooks specification recommends: about 28 hours in all."""
JITTER = 0.1
"""Share by which a pause may be shorter or longer, so that what failed together is not sent together."""
LONGEST_RETRY_AFTER = 12 * HOUR


def pause(failures: int, retry_after: str | None = None) -> float | None:
    """Seconds before the next attempt after so many failures (at least 1). None: there is no further attempt.

    `retry_after` is the receiver's header Retry-After (RFC 9110, section 10.2.3). It lengthens a pause up to 12 hours,
    and never shortens it.
    """
    if failures > len(PAUSES):
        return None
    planned = PAUSES[failures - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret depends on it
    return max(planned, min(_seconds(retry_after), LONGEST_RETRY_AFTER))


def _seconds(retry_after: str | None) -> float:
    """0 for a header that is missing or can't be read."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError):
        return 0.0
    return (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
