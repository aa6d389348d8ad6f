"""What the API answers about uploads."""

from __future__ import annotations

from datetime import datetime

from lit_spec.answers.base import Answer
from lit_spec.dataset_inspection import DatasetInspection
from lit_spec.errors import JobError
from lit_spec.networks.architecture import Inspection, LibraryRequest, TeacherWeights
from lit_spec.states import InspectionState, UploadKind, UploadState


class UploadPart(Answer):
    """A part of a file that the client sends to the object store itself."""

    number: int
    """From 1."""
    offset: int
    """Where it begins in the file, in bytes."""
    size: int
    """In bytes."""
    url: str
    """Takes one PUT of these bytes, without an API key, until it expires."""
    etag: str | None
    """Of the part if the store already has it: then it need not be sent."""


class UploadParts(Answer):
    """Where to send the parts of a file."""

    parts: list[UploadPart]
    """All parts of the file, in order."""


class Upload(Answer):
    """A file that was sent, or is being sent, to the service."""

    id: str
    """`upl_…`."""
    kind: UploadKind
    """What the file is for."""
    filename: str
    """As it was announced; only people read it."""
    size: int
    """In bytes."""
    received: int
    """How many bytes are stored: the `Upload-Offset` of the next PATCH."""
    sha256: str | None
    """Hexadecimal; null until it was announced or computed."""
    state: UploadState
    """Whether all bytes have arrived."""
    architecture: LibraryRequest | None
    """The network of torchvision or timm that was named for a teacher."""
    teacher_weights: TeacherWeights | None
    """The weights of a checkpoint that were asked for."""
    inspection_state: InspectionState | None
    """Of a complete upload. None: it is not complete, or a data set that an older version of LIT received."""
    inspection: Inspection | None = None
    """What was found in a teacher."""
    dataset_inspection: DatasetInspection | None = None
    """What was found in a data set."""
    inspection_error: JobError | None
    """Why the file can't be used; null unless the inspection failed."""
    created_at: datetime
    """When it was announced."""
    completed_at: datetime | None
    """When the last byte had arrived."""
    parts: list[UploadPart] | None = None
    """Only in the answer to an announcement with `direct`: where to send the parts."""
    expires_at: datetime | None = None
    """When it is removed unless it is used again; null: never, or not while an unfinished job or study needs it."""

    @property
    def complete(self) -> bool:
        return self.state == UploadState.COMPLETE

    @property
    def inspecting(self) -> bool:
        """Whether an inspection is pending or running."""
        return self.inspection_state in {InspectionState.PENDING, InspectionState.RUNNING}
