"""Conditional answers (RFC 9110): an ETag of what is shown, and whether the caller has it."""

from __future__ import annotations

import hashlib


def etag_of(text: str) -> str:
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def matches(if_none_match: str, etag: str) -> bool:
    """By the weak comparison (RFC 9110, section 13.1.2), so with W/ before it too."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
