"""A job as requested (`JobRequest`) and as it is run (`JobSpec`)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from lit_spec.base import SpecModel
from lit_spec.networks.architecture import Architecture, LibraryRequest
from lit_spec.requests.dataset import Augmentation, DatasetRequest
from lit_spec.requests.exports import Export
from lit_spec.requests.presets import Preset
from lit_spec.requests.training import Hyperparameters, Init, Select

SPEC_VERSION = 2

Tag = Annotated[str, Field(min_length=1, max_length=64)]


class StudentRequest(SpecModel):
    depth: int | None = Field(None, ge=1)
    blocks: list[Annotated[int, Field(ge=1)]] | None = Field(None, min_length=1)
    ratio: float | None = Field(None, gt=1, le=1000)
    """At least how many times fewer parameters than the teacher. The deepest student that has so few is trained."""
    select: Select = Select.EVEN
    """Which of the teacher's blocks are inherited."""
    init: Init | None = None
    """None: `inherit`, but `random` for the methods scratch and born-again."""
    allow_same_depth: bool = False

    @model_validator(mode="after")
    def _gives_depth_once(self) -> Self:
        if sum(value is not None for value in (self.depth, self.blocks, self.ratio)) > 1:
            raise ValueError('give one of "depth" (as 14), "blocks" (as [2, 2, 2]) and "ratio" (as 2.5), not several')
        return self


class JobRequest(Hyperparameters):
    """The body of `POST /v1/jobs`."""

    teacher: str = Field(min_length=1)
    """The id of a teacher upload."""
    architecture: LibraryRequest | None = None
    """For a teacher from torchvision or timm. None: the architecture that its inspection found."""
    teacher_options: dict[str, int | str | bool] = Field(default_factory=dict)
    """Options that the teacher's tensors don't show. The inspection's `choices` lists them with their values."""
    discriminator: str | None = Field(None, min_length=1)
    """The id of a teacher upload with a GAN's discriminator, for the adversarial fine-tuning of its generator."""
    dataset: DatasetRequest
    student: StudentRequest = Field(default_factory=StudentRequest)
    augmentation: Augmentation | None = None
    """None: the standard augmentation of the data; see docs/datasets.md."""
    exports: list[Export] | None = Field(None, max_length=len(Export))
    """Formats in addition to safetensors. None: onnx and pt2; for the trials of a study none."""
    preset: Preset | None = None
    """Values for the fields that the request does not set; see docs/method.md."""
    name: str | None = Field(None, min_length=1, max_length=200)
    tags: list[Tag] = Field(default_factory=list, max_length=32)


class StudentSpec(SpecModel):
    depth: int
    blocks: list[int]
    init: Init
    select: Select = Select.EVEN


class TeacherSpec(SpecModel):
    upload: str
    architecture: Architecture


class JobSpec(Hyperparameters):
    """A resolved job: what the ledger stores and the trainer runs."""

    spec_version: int = SPEC_VERSION
    teacher: TeacherSpec
    discriminator: TeacherSpec | None = None
    dataset: DatasetRequest
    student: StudentSpec
    augmentation: Augmentation | None = None
    exports: list[Export] = Field(default_factory=list)
    preset: Preset | None = None
    """The preset that was used. All its values are in this specification."""
