"""Data sets: uploaded or built in, split, preprocessed and augmented. docs/datasets.md says what is accepted."""

from __future__ import annotations

from lit_core.data.augmentation import augment
from lit_core.data.dataset import Arrays, Dataset, load_dataset
from lit_core.data.errors import DatasetError
from lit_core.data.preprocessing import ResolvedPreprocessing
from lit_core.data.source import Limits

__all__ = ["Arrays", "Dataset", "DatasetError", "Limits", "ResolvedPreprocessing", "augment", "load_dataset"]
