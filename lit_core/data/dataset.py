"""From a request to tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lit_core.data.digits import read_digits
from lit_core.data.errors import DatasetError
from lit_core.data.formats import read_upload
from lit_core.data.pixels import resize
from lit_core.data.preprocessing import ResolvedPreprocessing, resolve_preprocessing
from lit_core.data.source import Limits, Raw, Source
from lit_core.data.splits import assign, empty_split, partition
from lit_core.spec import Augmentation, DatasetRequest, Split

LIMITS = Limits()
SHIFT_SHARE = 8
"""The default shift is this part of the image's shorter side."""


@dataclass(frozen=True)
class Arrays:
    """One split, raw: give `x[rows]` to `ResolvedPreprocessing.apply`."""

    x: Tensor
    """(N, C, H, W), uint8 or float32, not necessarily contiguous."""
    y: Tensor
    """(N,) int64: positions in the class order."""


@dataclass(frozen=True)
class Dataset:
    splits: dict[Split, Arrays]
    """Every split of `Split`, none empty."""
    classes: list[str]
    preprocessing: ResolvedPreprocessing
    augmentation: Augmentation


def load_dataset(
    request: DatasetRequest,
    augmentation: Augmentation | None,
    path: Path | None,
    *,
    channels: int,
    classes: int,
    limits: Limits = LIMITS,
) -> Dataset:
    """Read, split and measure the data for a teacher with `channels` inputs and `classes` outputs.

    `path` is the uploaded file, None for a built-in data set. The result depends on request and file alone: the
    hold-out has a seed of its own, so that jobs with different seeds share one split. Raises DatasetError.
    """
    _check_request(request, channels, classes)
    raw = _read(request, path, channels, classes, limits)
    x, y, codes = raw.x, raw.y, assign(raw.y, raw.codes, request)
    names = raw.classes
    del raw  # x is taken over below: nothing else may hold it
    if request.size is not None:
        x = resize(x, request.size)
    shift = _augmentation(augmentation, x)
    splits = {split: Arrays(*part) for split, part in partition(x, y, codes).items()}
    for split, arrays in splits.items():
        if len(arrays.y) == 0:
            raise empty_split(split)
    preprocessing = resolve_preprocessing(request, splits[Split.TRAIN].x, names)
    return Dataset(splits, names, preprocessing, shift)


def _check_request(request: DatasetRequest, channels: int, classes: int) -> None:
    """What `lit_core.spec.resolve` has checked for a job, for those who call this directly."""
    for name, values in (("mean", request.mean), ("std", request.std)):
        if not isinstance(values, str) and len(values) != channels:
            raise DatasetError(
                f"{name} has {len(values)} values, but the teacher takes {channels} channels: give one a channel",
                field=f"dataset.{name}",
            )
    order = request.class_order
    if order is not None and (len(order) != classes or len(set(order)) != classes):
        raise DatasetError(
            f"class_order must name each of the teacher's {classes} classes once", field="dataset.class_order"
        )


def _read(request: DatasetRequest, path: Path | None, channels: int, classes: int, limits: Limits) -> Raw:
    if request.builtin is not None:
        return read_digits(request, channels, classes)
    if path is None:
        raise ValueError("an uploaded data set needs its path")
    return read_upload(Source(path, request, channels, classes, limits))


def _augmentation(augmentation: Augmentation | None, x: Tensor) -> Augmentation:
    shorter = min(x.shape[2:])
    if augmentation is None:
        return Augmentation(shift=min(shorter // SHIFT_SHARE, 64), flip=False)
    if augmentation.shift >= shorter:
        raise DatasetError(
            f"a shift of {augmentation.shift} pixels can move an image of {x.shape[2]}x{x.shape[3]} out of sight: "
            f"shift at most {shorter - 1}",
            field="augmentation.shift",
        )
    return augmentation
