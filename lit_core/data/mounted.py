"""Data sets by name from a folder that the workers' operator has mounted."""

from __future__ import annotations

from lit_core.data.errors import DatasetError
from lit_core.data.source import Raw, Source


def read_mounted(source: Source) -> Raw:
    """Raises DatasetError."""
    raise DatasetError(f"there is no data set {source.request.mounted!r}", field="dataset.mounted")
