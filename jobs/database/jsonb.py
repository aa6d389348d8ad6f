"""Which JSON values a `jsonb` column can hold: fewer than Python's `json` accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def check(value: Any) -> None:
    """Raises ValueError for numbers that are not finite, lone surrogates and NUL characters."""
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    if any("\0" in text for text in _strings(value)):
        raise ValueError("a string has a NUL character")


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, including the names in its objects."""
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case list() as items:
                left += items
            case dict() as members:
                left += [*members, *members.values()]
