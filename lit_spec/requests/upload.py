"""The request for an upload."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from lit_spec.base import SpecModel
from lit_spec.networks.architecture import LibraryRequest, TeacherWeights
from lit_spec.states import UploadKind


class UploadRequest(SpecModel):
    """The body of `POST /v1/uploads`."""

    kind: UploadKind
    filename: str = Field(min_length=1, max_length=255)
    size: int = Field(ge=1)
    """Size of the file in bytes."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Hexadecimal. With it, a file that the service already has need not be sent, and damaged bytes are refused."""
    architecture: LibraryRequest | None = None
    """Which network of torchvision or timm a teacher is."""
    direct: bool = False
    """Answer with URLs to which the client sends the parts itself, past the service."""
    teacher_weights: TeacherWeights | None = None
    """Which weights of a teacher's checkpoint that has raw and averaged ones. None: raw, or averaged where there are no
    others."""

    @model_validator(mode="after")
    def _only_of_teachers(self) -> Self:
        for name in ("architecture", "teacher_weights"):
            if getattr(self, name) is not None and self.kind != UploadKind.TEACHER:
                raise ValueError(f"{name} is for teachers: leave it out")
        return self


class SentPart(SpecModel):
    number: int = Field(ge=1, le=10_000)
    etag: str = Field(min_length=1, max_length=200)
    """As the object store answered it, with or without quotes."""


class SentParts(SpecModel):
    """The body of `POST /v1/uploads/{id}/complete`."""

    parts: list[SentPart] = Field(min_length=1, max_length=10_000)


class WeightsRequest(SpecModel):
    """The body of `PUT /v1/uploads/{id}/weights`."""

    teacher_weights: TeacherWeights
