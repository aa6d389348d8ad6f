"""Files and folders that only the service's own user may read: uploads, jobs, the embedded database, logs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import structlog

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
PRIVATE_UMASK = 0o077
"""For processes: what their libraries make is private too."""
SHARED = stat.S_ISVTX | stat.S_ISGID
"""The bits of folders that are for several users on purpose."""

log = structlog.get_logger()


def make_private_folder(folder: Path) -> None:
    """Make a folder with its parents, and close those that are new."""
    if not folder.parent.exists():
        make_private_folder(folder.parent)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def close_to_others(folder: Path, is_ours: Callable[[Path], bool]) -> None:
    """Close a folder that was there before, if `is_ours` is true of all that lies in it.

    Others may use any other folder, such as a home folder. What we make in it is closed all the same.
    """
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode == PRIVATE_FOLDER or mode & SHARED or found.st_uid != os.geteuid():
        return
    if all(map(is_ours, folder.iterdir())):
        folder.chmod(PRIVATE_FOLDER)
        log.info("folder closed to others", folder=str(folder), mode_before=f"{mode:04o}")
    else:
        log.info("folder not closed to others, because it holds other files too", folder=str(folder))
