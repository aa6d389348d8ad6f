"""Which files this service takes."""

from __future__ import annotations

from api.http.context import Context
from api.http.problems import Problem


def check_size(size: int, context: Context, field: str) -> None:
    """Raises Problem 413 for a file that is larger than this service allows."""
    most = context.settings.max_upload_bytes
    if size > most:
        raise Problem(
            413,
            "too-large",
            f"{field}: {size} bytes are more than the {most} that this service takes: send a smaller file",
        )
