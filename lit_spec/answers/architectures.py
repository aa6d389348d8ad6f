"""What the API answers about the networks of torchvision and timm."""

from __future__ import annotations

from lit_spec.answers.base import Answer
from lit_spec.networks.architecture import Library
from lit_spec.networks.students import StudentOption


class ArchitectureItem(Answer):
    """A network of torchvision or timm."""

    library: Library
    """The library that has it."""
    name: str
    """The library's name of it."""
    parameters: int
    """How many it has with the library's default arguments."""
    blocks: list[int]
    """Blocks of each section; empty if the network can't be made shallower."""
    refused: str | None
    """Why it can't be made shallower."""


class LibraryArchitecture(ArchitectureItem):
    """A network with its library's default arguments. Other `kwargs` may give other numbers."""

    size: list[int] | None
    """Height and width in pixels of the images that its sections were found with."""
    sections: list[list[str]]
    """Module paths of each section's blocks."""
    students: list[StudentOption]
    """Every number of blocks, shallowest first, the network itself last."""
