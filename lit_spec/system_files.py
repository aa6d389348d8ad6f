"""Files and folders that operating systems and tools put beside a data set's own."""

from __future__ import annotations

NAMES = frozenset(
    (
        *("__macosx", "icon\r"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("@eadir", "#recycle", "@recycle"),  # of network storage: Synology's and QNAP's
        *("lost+found", "__pycache__"),
    )
)
"""In lower case. Those of version control, notebooks, Linux and most of macOS begin with a dot, as all hidden files."""


def is_system_file(path: str) -> bool:
    """Whether a name, or any part of a path with slashes, is of a system or a tool, and of no data set."""
    return any(part.startswith(".") or part.lower() in NAMES for part in path.split("/") if part not in ("", "."))
