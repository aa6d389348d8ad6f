"""A job as asked for (`JobRequest`) and as it is run (`JobSpec`)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from lit_core.spec.architecture import Architecture
from lit_core.spec.base import Model
from lit_core.spec.dataset import Augmentation, DatasetRequest
from lit_core.spec.presets import Preset
from lit_core.spec.training import Hyperparameters, Init

SPEC_VERSION = 2

Tag = Annotated[str, Field(min_length=1, max_length=64)]


class StudentRequest(Model):
    depth: int | None = Field(None, ge=1)
    blocks: list[Annotated[int, Field(ge=1)]] | None = Field(None, min_length=1)
    init: Init | None = None
    """None: `inherit`, but `random` for the methods scratch and born-again."""
    allow_same_depth: bool = False

    @model_validator(mode="after")
    def _depth_or_blocks(self) -> Self:
        if self.depth is not None and self.blocks is not None:
            raise ValueError('give one of "depth" (as 14) and "blocks" (as [2, 2, 2]), not both')
        return self


class JobRequest(Hyperparameters):
    """The body of `POST /v1/jobs`."""

    teacher: str = Field(min_length=1)
    """The id of a teacher upload."""
    teacher_options: dict[str, int | str | bool] = Field(default_factory=dict)
    """What the teacher's tensors can't tell; its inspection's `choices` are what may be said."""
    discriminator: str | None = Field(None, min_length=1)
    """The id of a teacher upload that holds a GAN's discriminator, for the adversarial fine-tuning of its generator."""
    dataset: DatasetRequest
    student: StudentRequest = Field(default_factory=StudentRequest)
    augmentation: Augmentation | None = None
    """None: what is standard for the data; see docs/datasets.md."""
    preset: Preset | None = None
    """Values for all that the request itself leaves open; see docs/method.md."""
    name: str | None = Field(None, min_length=1, max_length=200)
    tags: list[Tag] = Field(default_factory=list, max_length=32)


class StudentSpec(Model):
    depth: int
    blocks: list[int]
    init: Init


class TeacherSpec(Model):
    upload: str
    architecture: Architecture


class JobSpec(Hyperparameters):
    """A resolved job: what the ledger stores and the trainer obeys."""

    spec_version: int = SPEC_VERSION
    teacher: TeacherSpec
    discriminator: TeacherSpec | None = None
    dataset: DatasetRequest
    student: StudentSpec
    augmentation: Augmentation | None = None
    preset: Preset | None = None
    """Where the values came from that the request left open; they all stand here."""
