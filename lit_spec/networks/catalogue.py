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
from lit_spec.networks.architecture import Library
from lit_spec.networks.students import BlockCosts, ParameterCounts, SharedParameters, StudentOption, shares

CATALOGUE = Path(__file__).with_name("architectures.json")


class CatalogueEntry(SpecModel):
    """One network with its library's default arguments."""

    library: Library
    name: str
    parameters: int
    size: list[int] | None = None
    """Height and width in pixels of the images with which its sections were found."""
    names_digest: str = Field(exclude=True)
    """Hash of the names of its tensors."""
    sections: list[list[str]] = Field(default_factory=list)
    """Module paths of each section's blocks."""
    block_parameters: list[list[int]] = Field(default_factory=list)
    """As in `ParameterCounts.blocks`."""
    shared_parameters: list[SharedParameters] = Field(default_factory=list)
    flops: int | None = None
    """Of one image of `size`."""
    block_flops: list[list[int]] = Field(default_factory=list)
    refused: str | None = None
    """Why it can't be made shallower."""

    @property
    def blocks(self) -> list[int]:
        return [len(section) for section in self.sections]

    @property
    def students(self) -> list[StudentOption]:
        """One for each number of blocks, shallowest first, the network itself last. Empty if it is refused."""
        if self.refused is not None:
            return []
        counts = ParameterCounts(total=self.parameters, blocks=self.block_parameters, shared=self.shared_parameters)
        flops = None if self.flops is None else BlockCosts(total=self.flops, blocks=self.block_flops)
        depths = range(len(self.blocks), sum(self.blocks) + 1)
        return [counts.student(depth, shares(self.blocks, depth), flops) for depth in depths]


@cache
def catalogue() -> dict[tuple[str, str], dict[str, Any]]:
    """Entries by library and name, as they are stored."""
    stored = json.loads(CATALOGUE.read_text())
    return {(entry["library"], entry["name"]): entry for entry in stored}


def find_entry(library: str, name: str) -> CatalogueEntry | None:
    """None for an unknown name. In timm's names the tag of pretrained weights, after a dot, is ignored."""
    entry = catalogue().get((library, name.partition(".")[0] if library == Library.TIMM else name))
    return None if entry is None else CatalogueEntry.model_validate(entry)


def near_names(library: str, name: str) -> list[str]:
    return nearest(name, [own for of, own in catalogue() if of == library])


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """Up to three names: first those of which one is the start of the other, then similar ones."""
    wanted = name.lower()
    akin = [one for one in names if one.startswith(wanted) or wanted.startswith(one)]
    akin.sort(key=lambda one: (abs(len(one) - len(wanted)), one))
    alike = difflib.get_close_matches(wanted, names, 3, 0.4)
    return list(dict.fromkeys([*akin, *alike]))[:3]
