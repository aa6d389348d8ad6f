"""Which files on a disk others than their owner can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def open_to_others(*roots: Path) -> dict[str, str]:
    """Files that are not 0600 and folders that are not 0700, with their modes. A socket is as closed as its folder."""
    wrong = {}
    for root in roots:
        paths = [root, *(Path(folder, name) for folder, folders, names in os.walk(root) for name in (*folders, *names))]
        for path in paths:
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # a job under way has removed it
                continue
            if mode & 0o077 and not stat.S_ISSOCK(mode):
                wrong[str(path)] = stat.filemode(mode)
    return wrong
