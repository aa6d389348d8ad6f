"""How the ledger says that there is work, without knowing the broker."""

from __future__ import annotations

from typing import Protocol


class PublishHint(Protocol):
    """Puts a hint into a queue of the broker. Never raises: a lost hint is replaced by housekeeping."""

    def __call__(self, queue: str) -> None: ...
