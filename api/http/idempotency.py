"""The Idempotency-Key header: the same request with the same key makes one thing."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header

from api.http.problems import invalid_field
from jobs.ledger.idempotency import IdempotentRequest

LONGEST_KEY = 255

IdempotencyKey = Annotated[
    str | None,
    Header(description="For a week, the same request with the same key gives what the first one made."),
]


def idempotent_request(key: str | None, body: dict[str, Any]) -> IdempotentRequest | None:
    """The caller's key together with the request; None without a key. Raises Problem 422."""
    if key is None:
        return None
    if not key or len(key) > LONGEST_KEY:
        raise invalid_field("Idempotency-Key", f"is empty or too long: give 1 to {LONGEST_KEY} characters")
    return IdempotentRequest.of(key, body)
