"""Rows of the ledger as the API shows them."""

from __future__ import annotations

from datetime import datetime

from jobs.database.models import Upload as UploadRow
from lit_spec.answers.uploads import Upload
from lit_spec.states import UploadKind


def show_upload(upload: UploadRow, expires_at: datetime | None = None) -> Upload:
    """`expires_at`: None for an upload that is not complete."""
    found = "inspection" if upload.kind == UploadKind.TEACHER else "dataset_inspection"
    others = Upload.model_fields.keys() - {"inspection", "dataset_inspection", "parts", "expires_at"}
    values = {name: getattr(upload, name) for name in others}
    return Upload.model_validate(values | {found: upload.inspection, "expires_at": expires_at})
