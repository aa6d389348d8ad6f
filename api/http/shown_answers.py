"""An answer as it is sent: its JSON and its ETag."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from pydantic import BaseModel


def etag_of(text: bytes) -> str:
    return f'"{hashlib.sha256(text).hexdigest()[:32]}"'


@dataclass(frozen=True)
class ShownAnswer:
    """What GET answers now. The ETag is that of the content, so that the two never belong to different states."""

    content: bytes
    """JSON."""
    etag: str
    finished: bool
    """Whether a wait for the end is over."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: BaseModel, *, finished: bool, headers: Mapping[str, str] | None = None) -> Self:
        content = answer.model_dump_json().encode()
        return cls(content, etag_of(content), finished, headers or {})
