"""What may be written to a worker's disk. It imports no torch, as nothing does that removes old files."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path


def free_bytes(folder: Path, reserve_bytes: int) -> int:
    """Bytes that may be written while the reserve stays free. Raises OSError."""
    return shutil.disk_usage(folder).free - reserve_bytes


def most_bytes_of_file() -> int:
    """That this process may write: the kernel's limit."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return 1 << 62 if most == resource.RLIM_INFINITY else most
