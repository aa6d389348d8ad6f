"""The request for an upload."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from lit_spec.base import SpecModel
from lit_spec.networks.architecture import LibraryRequest, TeacherWeights
from lit_spec.states import UploadKind


class UploadRequest(SpecModel):
    """The body of `POST /v1/uploads`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kind": "teacher", "filename": "teacher.safetensors", "size": 1_277_336}]}
    )

    kind: UploadKind
    """What the file is for."""
    filename: str = Field(min_length=1, max_length=255)
    """For people; it does not decide how the file is read."""
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
    """A part that the client has sent to the object store."""

    number: int = Field(ge=1, le=10_000)
    """As in the upload's `parts`."""
    etag: str = Field(min_length=1, max_length=200)
    """As the object store answered it, with or without quotes."""


class SentParts(SpecModel):
    """The body of `POST /v1/uploads/{id}/complete`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"parts": [{"number": 1, "etag": "d41d8cd98f00b204e9800998ecf8427e"}]}]}
    )

    parts: list[SentPart] = Field(min_length=1, max_length=10_000)
    """All parts, in any order."""


class WeightsRequest(SpecModel):
    """The body of `PUT /v1/uploads/{id}/weights`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"teacher_weights": "ema"}]})

    teacher_weights: TeacherWeights
    """The weights to use."""
