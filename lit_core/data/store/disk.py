"""What may be written to a worker's disk. It imports no torch, as nothing does that removes old files."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

SHARE_LEFT_FREE = 0.1
"""Of the disk, for everything else, by removing what nobody uses."""


def free_bytes(folder: Path) -> int:
    """Bytes that may be written while enough of the disk is left for everything else. Raises OSError."""
    disk = shutil.disk_usage(folder)
    return disk.free - int(SHARE_LEFT_FREE * disk.total)


def most_bytes_of_file() -> int:
    """That this process may write: the kernel's limit."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return 1 << 62 if most == resource.RLIM_INFINITY else most
