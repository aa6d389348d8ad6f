"""What the API answers about keys."""

from __future__ import annotations

from datetime import datetime

from lit_spec.answers.base import Answer
from lit_spec.scopes import Scope


class Key(Answer):
    """An API key, without its secret."""

    id: str
    """`key_…`."""
    name: str
    """Who or what it is for."""
    owner: str
    """Whose things it reaches."""
    scopes: list[Scope]
    """What it may do."""
    prefix: str
    """The first characters of its secret."""
    created_at: datetime
    """When it was made."""
    expires_at: datetime | None
    """From then on it is refused; null: it does not expire."""
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None
    """Since then it is refused; null: it was not revoked."""
    replaced_by: str | None
    """The key that a rotation made from this one."""


class NewKey(Key):
    """A key that was just made. Nothing shows its secret again."""

    secret: str
    """`lit_…`: what requests send as their bearer token."""

    @classmethod
    def of(cls, key: object, secret: str) -> NewKey:
        """`key` has the attributes of a Key, as a row of the ledger has them."""
        return cls(**Key.model_validate(key).model_dump(), secret=secret)
