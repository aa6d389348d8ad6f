"""Text that somebody else chose, in messages, logs and on terminals."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

LENGTH = 200
NAMES = 10

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What can move a terminal's cursor, end a line or turn the direction of writing."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text with its control characters and everything else that has no glyph as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def harmless(text: str) -> str:
    """Text of one or more lines for a terminal: control characters other than tab and newline are replaced."""
    return CONTROL.sub(lambda found: found[0] if found[0] in "\t\n" else REPLACEMENT, text)


def shown(name: str) -> str:
    """A member's name for a message: printable, valid UTF-8 and of limited length."""
    name = printable(name)
    return name if len(name) <= LENGTH else f"{name[:LENGTH]}…"


def some_shown(names: Iterable[str], most: int = NAMES) -> str:
    """The first names of a list for a message, and whether there are more."""
    first = list(islice(names, most + 1))
    return ", ".join(map(shown, first[:most])) + (", …" if len(first) > most else "")
