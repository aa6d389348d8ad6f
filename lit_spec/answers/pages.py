"""Lists in pages."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel

from lit_spec.answers.base import Answer

ItemT = TypeVar("ItemT", bound=BaseModel)


class Page(Answer, Generic[ItemT]):
    """Part of a list, newest first."""

    items: list[ItemT]
    """The things of this part of the list."""
    next_cursor: str | None
    """Asks for the part after this one; null ends the list."""
