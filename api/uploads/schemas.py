"""Rows of the ledger as the API shows them."""

from __future__ import annotations

from jobs.database.models import Upload as UploadRow
from lit_spec.answers.uploads import Upload
from lit_spec.states import UploadKind


def show_upload(upload: UploadRow) -> Upload:
    found = "inspection" if upload.kind == UploadKind.TEACHER else "dataset_inspection"
    others = Upload.model_fields.keys() - {"inspection", "dataset_inspection", "parts"}
    return Upload.model_validate({name: getattr(upload, name) for name in others} | {found: upload.inspection})
