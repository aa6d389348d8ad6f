"""Names that come from files, in messages."""

from __future__ import annotations

LENGTH = 200


def shown(name: str) -> str:
    """A member's name for a message: printable, valid UTF-8 and of limited length."""
    name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return name if len(name) <= LENGTH else f"{name[:LENGTH]}…"
