"""Where a network's stem, sections and head are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Paths of a network's stem, sections and head. A section is a sequence of blocks, each a module; stem and head are
    modules and, where a network has some outside of any, lone parameters."""

    stem: tuple[str, ...]
    sections: tuple[tuple[str, ...], ...]
    head: tuple[str, ...]
