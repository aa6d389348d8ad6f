"""Floats are not scaled, so constants that are for pixels of 0..1 would be wrong for floats of another range."""

from __future__ import annotations

import torch

from lit_core.data import Dataset, DatasetError, ImagePreprocessing
from lit_core.data.store.rows import pieces
from lit_spec import JobSpec, Resampling
from lit_spec.requests.preprocessing import IMAGENET

OVERSHOOT = {Resampling.BICUBIC: 0.3, Resampling.LANCZOS: 0.7}
"""How far resized pixels of 0..1 may lie outside of it, because the filters have negative weights. Of the other filters
only the rounding does it."""
ROUNDING = 1e-3


def check_scale(spec: JobSpec, dataset: Dataset) -> None:
    """Raises DatasetError for floats outside 0..1 whose mean or standard deviation is the library's or ImageNet's."""
    preprocessing = dataset.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing) or preprocessing.scale != 1:
        return
    published = [name for name in IMAGENET if _is_published(name, spec)]
    if not published:
        return
    bounds = [torch.aminmax(piece) for arrays in dataset.splits.values() for piece in pieces(arrays.x)]
    low, high = min(float(bound.min) for bound in bounds), max(float(bound.max) for bound in bounds)
    beyond = OVERSHOOT.get(preprocessing.resampling, ROUNDING)
    if low < -beyond or high > 1 + beyond:
        field, constants = f"dataset.{published[0]}", getattr(spec.dataset, published[0])
        raise DatasetError(
            f"the images are floats from {low:.4g} to {high:.4g}, but {field} is {constants}, which is for pixels "
            "from 0 to 1: scale the images to 0..1, or give dataset.mean and dataset.std for the images as they are, "
            'or "data" for both if the teacher was trained with the data\'s own',
            field=field,
        )


def _is_published(name: str, spec: JobSpec) -> bool:
    """Whether a constant is that of the teacher's library, or ImageNet's; the request may have left it open."""
    library = spec.teacher.preprocessing
    known = [IMAGENET[name], *([] if library is None else [getattr(library, name)])]
    return getattr(spec.dataset, name) in known
