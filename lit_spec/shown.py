"""Names that come from files, in messages."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

LENGTH = 200
NAMES = 10


def shown(name: str) -> str:
    """A member's name for a message: printable, valid UTF-8 and of limited length."""
    name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return name if len(name) <= LENGTH else f"{name[:LENGTH]}…"


def some_shown(names: Iterable[str], most: int = NAMES) -> str:
    """The first names of a list for a message, and whether there are more."""
    first = list(islice(names, most + 1))
    return ", ".join(map(shown, first[:most])) + (", …" if len(first) > most else "")
