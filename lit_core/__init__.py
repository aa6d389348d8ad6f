"""LIT: make a deep network shallower without losing its accuracy.

`lit_core.load(folder)` gives back a compressed model. Importing this package, or `lit_core.spec`, loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_core.model import Model, load

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from lit_core import model

        return getattr(model, name)
    raise AttributeError(f"module 'lit_core' has no attribute {name!r}")
