"""All that a job puts out, in one file."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Collection
from pathlib import Path

BUNDLE_FILE = "bundle.zip"
STAMP = (1980, 1, 1, 0, 0, 0)
"""One time for all members: the same files make the same bundle."""
COPIED_AT_ONCE = 1 << 20


def write_bundle(folder: Path, *, without: Collection[str] = ()) -> Path:
    """`bundle.zip` of all files in the folder and below, which stay as they are.

    `without` names files and folders to leave out, by their paths in `folder`. Raises ValueError for one that isn't
    there.
    """
    target = folder / BUNDLE_FILE
    left_out = {folder / name for name in without}
    for path in left_out:
        if not path.exists():
            raise ValueError(f"there is no {path.relative_to(folder)} to leave out of the bundle")
    left_out.add(target)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and left_out.isdisjoint((path, *path.parents)))
    # Weights hardly shrink: stored, they can be read in place.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), STAMP)
            member.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as written:
                shutil.copyfileobj(source, written, COPIED_AT_ONCE)
    return target
