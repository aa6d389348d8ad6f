"""How a stored file is announced to whoever downloads it, from the API or from the object store itself."""

from __future__ import annotations

import mimetypes
from urllib.parse import quote

MEDIA_TYPES = {".safetensors": "application/vnd.safetensors", ".json": "application/json"}


def media_type(name: str) -> str:
    for ending, found in MEDIA_TYPES.items():
        if name.endswith(ending):
            return found
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def attachment(name: str) -> str:
    """The Content-Disposition of a file that is saved under `name`."""
    return f"attachment; filename*=UTF-8''{quote(name)}"
