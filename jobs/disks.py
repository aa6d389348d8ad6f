"""Full disks: how they are recognised, and whether one can be written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space left, a quota is used up, or the file would be larger than the file system or process allows."""
SHARE_IN_RESERVE = 0.1
"""Of a worker's disk, where LIT_DISK_RESERVE_BYTES is not set."""
PROBE_BYTES = 1 << 20
"""As much as a piece of an upload: creating an empty file may succeed on a full disk."""


def is_full(failure: OSError) -> bool:
    return failure.errno in FULL


def reason(failure: OSError) -> str:
    """What is wrong, without paths, which callers must not see."""
    if is_full(failure):
        return "its disk is full"
    return failure.strerror or "it can't be used"


def reserve_bytes(configured: int | None, folder: Path) -> int:
    """What workers leave free of the disk on which the folder lies. Raises OSError."""
    return int(SHARE_IN_RESERVE * shutil.disk_usage(folder).total) if configured is None else configured


def probe(folder: Path) -> None:
    """Write a file in `folder` and remove it. Raises OSError if nothing can be written there."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        written = 0
        while written < PROBE_BYTES:
            written += file.write(bytes(PROBE_BYTES - written))
        os.fsync(file.fileno())
