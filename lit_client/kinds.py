"""Whether a file is a teacher or a data set, by its content."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from lit_spec.states import UploadKind
from lit_spec.trainer.folder import WEIGHTS_FILE

ARRAYS = {"x", "y", "split"}
"""All tensors that a safetensors file of a data set has."""
PICKLED = "data.pkl"
"""In each zip archive of torch.save."""
HEADER_BYTES = 100 << 20
PICKLE = b"\x80"


def kind_of(path: Path) -> UploadKind:
    """A folder with the model of a downloaded student is a teacher, and so is what torch.save and safetensors write.
    Raises OSError.
    """
    if path.is_dir():
        return UploadKind.TEACHER if (path / WEIGHTS_FILE).is_file() else UploadKind.DATASET
    with path.open("rb") as file:
        head = file.read(9)
        length = int.from_bytes(head[:8], "little")
        header = file.read(length - 1) if head[8:] == b"{" and length <= HEADER_BYTES else b""
    if header:
        return UploadKind.DATASET if _names(b"{" + header) <= ARRAYS else UploadKind.TEACHER
    if zipfile.is_zipfile(path):
        return _kind_of_archive(path)
    return UploadKind.TEACHER if head.startswith(PICKLE) else UploadKind.DATASET


def _names(header: bytes) -> set[str]:
    try:
        found = json.loads(header)
    except ValueError:
        return set()
    return set(found) - {"__metadata__"} if isinstance(found, dict) else set()


def _kind_of_archive(path: Path) -> UploadKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        return UploadKind.DATASET
    return UploadKind.TEACHER if names & {PICKLED, WEIGHTS_FILE} else UploadKind.DATASET
