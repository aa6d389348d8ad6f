"""What an inspection finds out about a teacher."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import ConfigDict, Field, field_validator

from lit_spec.base import OpenEnum, SpecModel
from lit_spec.networks.students import BlockCosts, ParameterCounts, StudentOption


class Modality(OpenEnum):
    IMAGE = "image"
    TEXT = "text"


class Task(OpenEnum):
    CLASSIFICATION = "classification"
    TRANSLATION = "translation"
    """Images to images in another domain, as StarGAN's generator does."""
    DISCRIMINATION = "discrimination"
    """A GAN's discriminator. It can't be a teacher, but adversarial fine-tuning needs it."""


class Library(OpenEnum):
    TORCHVISION = "torchvision"
    TIMM = "timm"


class Resampling(OpenEnum):
    """Pillow's filters for resizing. All but `nearest` antialias."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class Rename(OpenEnum):
    BY_ORDER = "by_order"


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
    """A library's network by its name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"library": "torchvision", "name": "resnet50"},
                {"library": "timm", "name": "vit_tiny_patch16_224", "kwargs": {"img_size": 64}},
            ]
        }
    )

    library: Library
    """The library that has the network."""
    name: str = Field(min_length=1, max_length=200)
    """The library's name of the network, such as `resnet50` or `vit_tiny_patch16_224`."""
    kwargs: dict[Word, Kwarg] = Field(default_factory=dict, max_length=32)
    """Arguments of the library's function. `num_classes` and timm's `in_chans` are taken from the tensors."""
    sections: Annotated[list[ModulePath | BlockPaths], Field(min_length=1, max_length=100)] | None = None
    """For each section the module path of the container of its blocks, or the paths of its blocks. None: they are
    found."""
    rename: Rename | None = None
    """`by_order`: tensors that the library names otherwise are the network's in their order, if all shapes match. For
    checkpoints of the same layers under other names."""

    @field_validator("kwargs")
    @classmethod
    def _builds_a_network_alone(cls, kwargs: dict[str, Kwarg]) -> dict[str, Kwarg]:
        # The libraries' functions also download and read files. A request must never make a service do that.
        for name in kwargs:
            if NOT_ABOUT_THE_NETWORK.search(name):
                raise ValueError(f"may only have arguments that describe the network, and {name} doesn't: leave it out")
        return kwargs


class LibraryNetwork(SpecModel):
    """A library's network and its sections, as paths of modules and of parameters outside of them."""

    name: str
    """The library's name of it."""
    kwargs: dict[str, Kwarg]
    """Arguments of the library's function."""
    stem: list[str]
    """What runs before the first section."""
    sections: list[list[str]]
    """Paths of the blocks of each section in the library's network."""
    head: list[str]
    """Includes what runs between the sections."""
    size: list[int]
    """Height and width in pixels of the images with which the sections were found."""
    kept: list[list[int]] | None = None
    """Of a student: the indices of these blocks that it has, by section. None: the whole network."""


class Architecture(SpecModel):
    """A network as read from its tensors. Together with its state dict it is enough to rebuild the network."""

    family: str
    """The family of networks, for example `resnet_cifar`, or the library."""
    modality: Modality = Modality.IMAGE
    """What its inputs are."""
    task: Task = Task.CLASSIFICATION
    """What it is for."""
    depth: int
    """Layers with weights, as the family's paper counts them. For a library's network: the number of its blocks."""
    blocks: list[int]
    """Blocks per section."""
    channels: int | None
    """Input channels of images; None for texts."""
    classes: int
    """Outputs of a classifier; domains (or attributes) of a GAN."""
    options: dict[str, int | str | bool] = Field(default_factory=dict)
    """What else the family needs; for a CIFAR ResNet `width`, `shortcut` (A or B) and the names of its modules."""
    network: LibraryNetwork | None = None
    """Only for the families torchvision and timm."""
    choices: dict[str, list[int | str | bool]] = Field(default_factory=dict)
    """Options that the tensors don't show, with their possible values. The first is assumed unless the request says
    otherwise in `teacher_options`."""


class TeacherFormat(OpenEnum):
    SAFETENSORS = "safetensors"
    PT = "pt"


class TeacherWeights(OpenEnum):
    RAW = "raw"
    """As the optimiser left them."""
    EMA = "ema"
    """Averaged over the training: a moving average (EMA), or one of several epochs (SWA)."""


class InspectedLatency(SpecModel):
    """How long a forward pass of one input took on the machine that inspected the teacher, in float32."""

    device: str
    """The device of the inspection."""
    threads: int
    """Threads that torch used."""
    nanoseconds: BlockCosts
    """Of the whole network and of its blocks."""


class LibraryPreprocessing(SpecModel):
    """How a library preprocesses images for the weights that it publishes of a network."""

    weights: str
    """The library's name of these weights, such as `IMAGENET1K_V2` or `a1_in1k`."""
    size: list[int]
    """Height and width in pixels of the network's input."""
    resize: int | list[int] | None
    """As `dataset.resize` of a request."""
    resampling: Resampling
    """The filter for resizing."""
    mean: list[float]
    """Per channel, after scaling to [0, 1], as for `std`."""
    std: list[float]
    """Standard deviation per channel, on the same scale."""


class Inspection(SpecModel):
    """What the upload of a teacher contains."""

    format: TeacherFormat
    """The format of the uploaded file."""
    unwrapped: list[str] = Field(default_factory=list)
    """What was done to find the network's tensors in the file: which ones were taken, prefixes that were removed from
    names, parts that were put together, and what was left out."""
    weights: TeacherWeights | None = None
    """Which weights were taken. None: an older version of LIT has inspected the teacher."""
    weights_choices: list[TeacherWeights] = Field(default_factory=list)
    """Which weights the file has: the values that `teacher_weights` may have. Empty where `weights` is None."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of the safetensors file that was made of the teacher, which jobs read. None: as for `weights`."""
    architecture: Architecture
    """The network."""
    parameters: int
    """Number of its parameters."""
    students: list[StudentOption]
    """One for each depth that a student may have, shallowest first, the teacher's own depth last. Empty for a
    discriminator."""
    parameter_counts: ParameterCounts | None = None
    """None: an older version of LIT has inspected the teacher."""
    first_blocks_stay: list[bool] | None = None
    """For each section whether its first block can't be left out, because it has other tensors than the second. None:
    as for `parameter_counts`."""
    input_shape: list[int] | None = None
    """Of the input for which FLOPs and latency were measured, without the batch. None: they were not."""
    flops: BlockCosts | None = None
    """Of one input. None: they are not known."""
    latency: InspectedLatency | None = None
    """None: the network is too large to measure it within seconds, or as for `parameter_counts`."""
    preprocessing: LibraryPreprocessing | None = None
    """What the request leaves open is taken from here. None: the network is not a library's, its input has not three
    channels, the library doesn't say how it preprocesses images, or as for `parameter_counts`."""
