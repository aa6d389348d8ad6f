"""Where the code is, for child processes that need it in any working directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def with_checkout(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with the checkout first in PYTHONPATH."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path}
