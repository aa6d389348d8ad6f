"""What the API answers about keys."""

from __future__ import annotations

from datetime import datetime

from lit_spec.answers.base import Answer
from lit_spec.scopes import Scope


class Key(Answer):
    """An API key, without its secret."""

    id: str
    name: str
    owner: str
    scopes: list[Scope]
    prefix: str
    """The first characters of its secret."""
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None
    replaced_by: str | None
    """The key that a rotation made from this one."""


class NewKey(Key):
    """A key that was just made. Nothing shows its secret again."""

    secret: str
