"""Files in one zip archive: all output of a job, and formats that have several files."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from lit_spec.trainer.folder import BUNDLE_FILE

STAMP = (1980, 1, 1, 0, 0, 0)
"""The same time for all members, so that the same files make the same archive."""
COPIED_AT_ONCE = 1 << 20


def write_bundle(folder: Path) -> Path:
    """Write `bundle.zip` with all files in the folder and below. The files stay."""
    target = folder / BUNDLE_FILE
    write_archive(folder, target)
    return target


def write_archive(folder: Path, target: Path) -> None:
    """Write all files in the folder and below, except `target`, into the archive `target`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != target)
    # Stored, not compressed: weights hardly shrink, and stored they can be read in place.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), STAMP)
            member.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as written:
                shutil.copyfileobj(source, written, COPIED_AT_ONCE)
