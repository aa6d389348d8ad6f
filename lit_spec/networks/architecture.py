"""What an inspection finds in a teacher."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from lit_spec.base import OpenEnum, SpecModel


class Modality(OpenEnum):
    IMAGE = "image"
    TEXT = "text"


class Task(OpenEnum):
    CLASSIFICATION = "classification"
    TRANSLATION = "translation"
    """Images to images of another domain, as a StarGAN generator does."""
    DISCRIMINATION = "discrimination"
    """A GAN's discriminator: no teacher by itself, but what an adversarial fine-tuning needs."""


class Library(OpenEnum):
    TORCHVISION = "torchvision"
    TIMM = "timm"


Word = Annotated[str, Field(max_length=200)]
Scalar = int | float | bool | Word
Kwarg = Scalar | None | Annotated[list[Scalar], Field(max_length=100)]
ModulePath = Annotated[str, Field(max_length=300)]
BlockPaths = Annotated[list[ModulePath], Field(min_length=1, max_length=1000)]

NOT_ABOUT_THE_NETWORK = re.compile(
    "pretrained|checkpoint|weights|cache|cfg|url|file|progress|features_only|scriptable|exportable|no_jit"
    "|^device$|^dtype$"
)


class LibraryRequest(SpecModel):
    """A network of a library, as one names it."""

    library: Library
    name: str = Field(min_length=1, max_length=200)
    """The library's own name for it, as `resnet50` or `vit_tiny_patch16_224`."""
    kwargs: dict[Word, Kwarg] = Field(default_factory=dict, max_length=32)
    """What the library's function is called with. `num_classes` and timm's `in_chans` are read off the tensors."""
    sections: Annotated[list[ModulePath | BlockPaths], Field(min_length=1, max_length=100)] | None = None
    """Module paths: for each section that of the container of its blocks, or those of the blocks. None: found."""

    @field_validator("kwargs")
    @classmethod
    def _builds_a_network_alone(cls, kwargs: dict[str, Kwarg]) -> dict[str, Kwarg]:
        # The libraries' functions also fetch and read files, which a request must never make a service do.
        for name in kwargs:
            if NOT_ABOUT_THE_NETWORK.search(name):
                raise ValueError(f"may only say how the network is built, which {name} doesn't: leave it out")
        return kwargs


class LibraryNetwork(SpecModel):
    """A library's network and where its sections are, as paths of modules and of lone parameters."""

    name: str
    kwargs: dict[str, Kwarg]
    stem: list[str]
    sections: list[list[str]]
    """Paths of the blocks of each section, in the teacher."""
    head: list[str]
    """With what runs between the sections."""
    size: list[int]
    """Height and width in pixels of the images that it was looked through with."""
    kept: list[list[int]] | None = None
    """Of a student: the places of the teacher's blocks that it has. None: the whole network."""


class Architecture(SpecModel):
    """A network as read from its tensors; with its state dict enough to rebuild it."""

    family: str
    modality: Modality = Modality.IMAGE
    task: Task = Task.CLASSIFICATION
    depth: int
    """Weighted layers, counted as the family's paper counts them; of a library's network its blocks."""
    blocks: list[int]
    """Blocks per section."""
    channels: int | None
    """Input channels of images; None for text."""
    classes: int
    """Outputs of a classifier; domains (or attributes) of a GAN."""
    options: dict[str, int | str | bool] = Field(default_factory=dict)
    """What else the family needs: for a CIFAR ResNet `width`, `shortcut` (A or B) and the names in use."""
    network: LibraryNetwork | None = None
    """Of the families torchvision and timm."""
    choices: dict[str, list[int | str | bool]] = Field(default_factory=dict)
    """Options that the tensors can't tell, with their possible values. Without a word from the request (its
    `teacher_options`) the first is assumed."""


class StudentOption(SpecModel):
    """What one student depth would save."""

    depth: int
    blocks: list[int]
    parameters: int
    parameters_ratio: float
    """Teacher / student."""


class TeacherFormat(OpenEnum):
    SAFETENSORS = "safetensors"
    PT = "pt"


class Inspection(SpecModel):
    """What a teacher's upload turned out to be."""

    format: TeacherFormat
    architecture: Architecture
    parameters: int
    students: list[StudentOption]
    """Every depth that a student may have, shallowest first, the teacher's own depth last; none of a discriminator."""


def layers_per_block(inspection: Inspection) -> int:
    """Weighted layers of one block, read off two of the depths that the family offers."""
    if len(inspection.students) < 2:
        return 0
    first, last = inspection.students[0], inspection.students[-1]
    return (last.depth - first.depth) // (sum(last.blocks) - sum(first.blocks))
