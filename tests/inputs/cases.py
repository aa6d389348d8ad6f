"""A kind of input, and what becomes of it. The tests check every case; `make inputs` writes them to docs/inputs.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    TAKEN = "taken"
    NOTED = "taken, with a note"
    REFUSED_ON_ARRIVAL = "refused when it arrives"
    REFUSED_AT_POST = "refused when the job is posted"


@dataclass(frozen=True)
class Case:
    group: str
    title: str
    """What the input is, for the page."""
    make: Callable[[Path], None]
    """Writes the file."""
    outcome: Outcome = Outcome.TAKEN
    says: str = ""
    """A part of the refusal or of the note."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """What the request says of it: fields of `dataset`, or of the upload of a teacher."""
    teacher: Mapping[str, Any] = field(default_factory=dict)
    """Of a data set's case: what differs from the usual teacher of its group."""

    def __str__(self) -> str:
        return f"{self.group}: {self.title}"


@dataclass(frozen=True)
class Result:
    outcome: Outcome
    words: str
    """The refusal, or the notes."""
