"""All that a job puts out, in one file."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

BUNDLE_FILE = "bundle.zip"
STAMP = (1980, 1, 1, 0, 0, 0)
"""One time for all members: the same files make the same bundle."""
COPIED_AT_ONCE = 1 << 20


def write_bundle(folder: Path) -> Path:
    """`bundle.zip` of all files in the folder and below, which stay as they are."""
    target = folder / BUNDLE_FILE
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != target)
    # Weights hardly shrink: stored, they can be read in place.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), STAMP)
            member.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as written:
                shutil.copyfileobj(source, written, COPIED_AT_ONCE)
    return target
