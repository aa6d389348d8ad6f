"""Where a network's stem, sections and head are."""

from __future__ import annotations

from dataclasses import dataclass


class NoSections(Exception):
    """The network can't be divided into sections. The message says why and what to do."""


@dataclass(frozen=True)
class Layout:
    """Paths of a network's stem, sections and head. A section is a sequence of blocks, each of which is a module. Stem
    and head are modules, and parameters that belong to no other module."""

    stem: tuple[str, ...]
    sections: tuple[tuple[str, ...], ...]
    head: tuple[str, ...]
