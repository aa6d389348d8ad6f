"""What the API answers about uploads."""

from __future__ import annotations

from datetime import datetime

from lit_spec.answers.base import Answer
from lit_spec.errors import JobError
from lit_spec.networks.architecture import Inspection, LibraryRequest
from lit_spec.states import InspectionState, UploadKind, UploadState


class Upload(Answer):
    """A file that was sent, or is being sent, to the service."""

    id: str
    kind: UploadKind
    filename: str
    size: int
    """In bytes."""
    received: int
    """How many bytes are safely here; `Upload-Offset` of the next PATCH."""
    sha256: str | None
    state: UploadState
    architecture: LibraryRequest | None
    """What a teacher is said to be, of torchvision or timm."""
    inspection_state: InspectionState | None
    """Of a complete teacher."""
    inspection: Inspection | None
    inspection_error: JobError | None
    created_at: datetime
    completed_at: datetime | None

    @property
    def complete(self) -> bool:
        return self.state == UploadState.COMPLETE

    @property
    def inspecting(self) -> bool:
        """Whether an inspection is still to come or under way."""
        return self.inspection_state in {InspectionState.PENDING, InspectionState.RUNNING}
