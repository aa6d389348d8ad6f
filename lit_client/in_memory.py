"""Models and data in memory, for `Client.compress`. No other module of the client needs torch.

`lit_core.service_files` does the work; it is part of the same package, but its dependencies are the extra `core`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lit_client.errors import MissingCore


def has_core() -> bool:
    """Whether torch, and what else `lit_core` needs, is installed."""
    try:
        _core("")
    except MissingCore:
        return False
    return True


def write_teacher(model: Any, path: Path, architecture: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """As `lit_core.service_files.write_teacher`. Raises MissingCore too."""
    found: dict[str, Any] | None = _core("a model in memory").write_teacher(model, path, architecture)
    return found


def write_data(data: Any, path: Path) -> None:
    """As `lit_core.service_files.write_data`. Raises MissingCore too."""
    _core("data in memory").write_data(data, path)


def load_student(folder: Path) -> Any:
    """The downloaded student as a `lit_core.Model`; None without torch, and for a plan, which makes no student."""
    return _core("a student").load_student(folder) if has_core() else None


def _core(what: str) -> ModuleType:
    try:
        from lit_core import service_files
    except ModuleNotFoundError as missing:
        if missing.name is not None and missing.name.partition(".")[0] in {"lit_core", "lit_spec"}:
            raise
        raise MissingCore(what, missing.name or "torch") from missing
    return service_files
