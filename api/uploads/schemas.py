"""Rows of the ledger as the API shows them."""

from __future__ import annotations

from jobs.database.models import Upload as UploadRow
from lit_spec.answers.uploads import Upload


def show_upload(upload: UploadRow) -> Upload:
    return Upload.model_validate(upload)
