"""LIT: make a deep network shallower without losing its accuracy.

`lit_core.load(folder)` gives back a compressed model, and `lit_core.compress(model, data, …)` makes one. Importing this
package, or `lit_spec`, loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_core.compressed import Compressed
    from lit_core.compression import compress
    from lit_core.model import Model, load
    from lit_core.progress import Callback

__all__ = ["Callback", "Compressed", "Model", "compress", "load"]
MODULES = {
    "Callback": "progress",
    "Compressed": "compressed",
    "compress": "compression",
    "Model": "model",
    "load": "model",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"lit_core.{MODULES[name]}"), name)
    raise AttributeError(f"module 'lit_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
