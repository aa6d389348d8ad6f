"""Data sets: uploaded or built in, split, preprocessed and augmented. docs/datasets.md lists what is accepted.

Importing this package loads no torch, because the processes that decode images are started by the dozen.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_core.data.augmentation import augment
    from lit_core.data.dataset import Arrays, Dataset, Preprocessing, load_dataset
    from lit_core.data.errors import DatasetError
    from lit_core.data.preprocessing import ImagePreprocessing
    from lit_core.data.source import Interface, Limits
    from lit_core.data.text_preprocessing import TextPreprocessing

__all__ = [
    "Arrays",
    "Dataset",
    "DatasetError",
    "ImagePreprocessing",
    "Interface",
    "Limits",
    "Preprocessing",
    "TextPreprocessing",
    "augment",
    "load_dataset",
]
MODULES = {
    "Arrays": "dataset",
    "Dataset": "dataset",
    "DatasetError": "errors",
    "ImagePreprocessing": "preprocessing",
    "Interface": "source",
    "Limits": "source",
    "Preprocessing": "dataset",
    "TextPreprocessing": "text_preprocessing",
    "augment": "augmentation",
    "load_dataset": "dataset",
}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(f"lit_core.data.{MODULES[name]}"), name)
    raise AttributeError(f"module 'lit_core.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
