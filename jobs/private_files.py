"""Files and folders that only the service's own user may read: uploads, jobs, the embedded database, logs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
PRIVATE_UMASK = 0o077
"""For processes: what their libraries make is private too."""


def make_private_folder(folder: Path) -> None:
    """Make a folder with its parents, and close those that are new."""
    if not folder.parent.exists():
        make_private_folder(folder.parent)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def close_to_others(folder: Path) -> None:
    """Close a folder that was there before. Leaves alone what belongs to others, or is for everyone, such as /tmp."""
    found = folder.stat()
    if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
        folder.chmod(PRIVATE_FOLDER)
