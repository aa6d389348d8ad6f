"""Data sets: uploaded or built in, split, preprocessed and augmented. docs/datasets.md lists what is accepted."""

from __future__ import annotations

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
