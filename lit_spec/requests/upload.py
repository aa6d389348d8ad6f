"""The request for an upload."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from lit_spec.base import SpecModel
from lit_spec.networks.architecture import LibraryRequest
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

    @model_validator(mode="after")
    def _only_of_teachers(self) -> Self:
        if self.architecture is not None and self.kind != UploadKind.TEACHER:
            raise ValueError("architecture is for teachers: leave it out")
        return self
