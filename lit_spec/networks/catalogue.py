"""What is known of the networks of torchvision and timm without building them.

`architectures.json` is written by `python -m lit_core.networks.catalogue`, which builds and divides each of them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from lit_spec.base import SpecModel
from lit_spec.networks.architecture import Library, StudentOption

CATALOGUE = Path(__file__).with_name("architectures.json")


class CatalogueEntry(SpecModel):
    """One network with its library's default arguments."""

    library: Library
    name: str
    parameters: int
    size: list[int] | None = None
    """Height and width in pixels of the images that it was looked through with."""
    names_digest: str = Field(exclude=True)
    """Of its tensors' names."""
    sections: list[list[str]] = Field(default_factory=list)
    """Module paths of each section's blocks."""
    block_parameters: list[list[int]] = Field(default_factory=list)
    refused: str | None = None
    """Why it can't be made shallower."""

    @property
    def blocks(self) -> list[int]:
        return [len(section) for section in self.sections]

    @property
    def students(self) -> list[StudentOption]:
        """Every number of blocks, shallowest first, the network itself last; none where it can't be made shallower."""
        if self.refused is not None:
            return []
        depths = range(len(self.blocks), sum(self.blocks) + 1)
        return [
            student_option(depth, shares(self.blocks, depth), self.parameters, self.block_parameters)
            for depth in depths
        ]


def student_option(depth: int, blocks: list[int], parameters: int, block_parameters: list[list[int]]) -> StudentOption:
    """What a student of evenly spaced blocks saves, from the parameters of the whole teacher and of each block."""
    kept = sum(
        own[place] for own, count in zip(block_parameters, blocks, strict=True) for place in evenly(len(own), count)
    )
    left = parameters - sum(map(sum, block_parameters)) + kept
    # Never more than it is, so that whoever asks for this ratio gets this student.
    ratio = parameters * 1000 // left / 1000
    return StudentOption(depth=depth, blocks=blocks, parameters=left, parameters_ratio=ratio)


def evenly(teacher_blocks: int, student_blocks: int) -> list[int]:
    """Places of the first block and evenly spaced others."""
    return [i * teacher_blocks // student_blocks for i in range(student_blocks)]


def shares(blocks: list[int], total: int) -> list[int]:
    """`total` blocks over the sections as the teacher's are, none empty: by highest averages, which never take one
    back."""
    given = [1] * len(blocks)
    for _ in range(total - len(blocks)):
        open_ones = [n for n, count in enumerate(blocks) if given[n] < count]
        given[max(open_ones, key=lambda n: (blocks[n] / given[n], -n))] += 1
    return given


@cache
def catalogue() -> dict[tuple[str, str], dict[str, Any]]:
    """Entries by library and name, as they are stored."""
    stored = json.loads(CATALOGUE.read_text())
    return {(entry["library"], entry["name"]): entry for entry in stored}


def find_entry(library: str, name: str) -> CatalogueEntry | None:
    """timm's names may have the tag of pretrained weights after a dot, which changes nothing here."""
    entry = catalogue().get((library, name.partition(".")[0] if library == Library.TIMM else name))
    return None if entry is None else CatalogueEntry.model_validate(entry)


def near_names(library: str, name: str) -> list[str]:
    return nearest(name, [own for of, own in catalogue() if of == library])


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """Up to three: those that begin with the name or that it begins with, then those that look like it."""
    wanted = name.lower()
    akin = [one for one in names if one.startswith(wanted) or wanted.startswith(one)]
    akin.sort(key=lambda one: (abs(len(one) - len(wanted)), one))
    alike = difflib.get_close_matches(wanted, names, 3, 0.4)
    return list(dict.fromkeys([*akin, *alike]))[:3]
