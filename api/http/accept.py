"""Which of two forms of an answer a caller prefers: the header Accept (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header

Accept = Annotated[str, Header(include_in_schema=False)]
VARY = {"Vary": "Accept"}

_RANGE = re.compile(r"\s*(?P<type>[^\s;,/]+/[^\s;,/]+)\s*(?P<parameters>(?:;[^,]*)?)")
_WEIGHT = re.compile(r";\s*q\s*=\s*(?P<weight>[01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE)


def prefers(accept: str, media_type: str, *, over: str) -> bool:
    """Whether `media_type` is asked for, and at least as much as `over`, which is the form for those who don't care.

    `*/*` asks for nothing in particular. Parts that are not media ranges are ignored.
    """
    weights = _weights(accept)
    kind = media_type.partition("/")[0]
    asked = weights.get(media_type, weights.get(f"{kind}/*", 0.0))
    return asked > 0 and asked >= _weight_of(over, weights)


def _weights(accept: str) -> dict[str, float]:
    """By media range, in lower case."""
    found: dict[str, float] = {}
    for part in accept.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            continue
        weight = _WEIGHT.search(match["parameters"])
        found[match["type"].lower()] = 1.0 if weight is None else min(1.0, float(weight["weight"]))
    return found


def _weight_of(media_type: str, weights: dict[str, float]) -> float:
    """That of the most specific range."""
    kind = media_type.partition("/")[0]
    return next((weights[name] for name in (media_type, f"{kind}/*", "*/*") if name in weights), 0.0)
