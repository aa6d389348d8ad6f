"""Which sample belongs to which split."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_core.data.errors import DatasetError
from lit_core.data.pixels import CHUNK
from lit_core.data.store.rows import Rows, StoredRows
from lit_spec import DatasetRequest, SpecError, Split
from lit_spec.requests.splits import split_sizes

SPLITS = tuple(Split)
TRAIN, VALIDATION, TEST = range(3)
NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
SEED = 0
"""Of every hold-out. Not the job's seed: jobs that differ in their seeds must be measured on the same samples."""


def assign(y: Tensor, codes: Tensor | None, request: DatasetRequest) -> Tensor:
    """Each sample's split (N,). Missing splits are held out from the training split. Raises DatasetError."""
    y = _strata(y)
    codes = torch.full_like(y, TRAIN) if codes is None else codes.clone()
    counts = torch.bincount(codes, minlength=len(SPLITS)).tolist()
    present = {code for code, count in enumerate(counts) if count}
    if TRAIN not in present:
        raise empty_split(Split.TRAIN)
    try:
        sizes = split_sizes(dict(zip(SPLITS, counts, strict=True)), request)
    except SpecError as failure:
        raise DatasetError(failure.message, field=failure.field) from failure
    for code in (TEST, VALIDATION):
        if code not in present and sizes[SPLITS[code]]:
            train = (codes == TRAIN).nonzero().squeeze(1)
            codes[train[hold_out(y[train], sizes[SPLITS[code]])]] = code
    return codes


def hold_out(y: Tensor, count: int) -> Tensor:
    """Indices of `count` samples, with the classes' shares (within one sample). The same y gives the same choice."""
    y = _strata(y)
    # RandomState's numbers never change between versions; numpy's Generator and torch do not promise that.
    shuffled = np.random.RandomState(SEED).permutation(len(y))
    by_class = shuffled[np.argsort(y.numpy()[shuffled], kind="stable")]
    return torch.from_numpy(np.sort(by_class[_evenly_spaced(len(y), count)]))


def _strata(y: Tensor) -> Tensor:
    """One integer per sample: its class, or a number for its combination of attributes."""
    return torch.unique(y, dim=0, return_inverse=True)[1] if y.ndim == 2 else y


def _evenly_spaced(samples: int, count: int) -> NDArray[np.bool_]:
    edges = (2 * np.arange(samples + 1, dtype=np.int64) * count + samples) // (2 * samples)
    return np.diff(edges) > 0


def empty_split(split: Split) -> DatasetError:
    return DatasetError(f'the split "{split}" is empty: it needs samples', member=split.value)


def partition(x: Rows, y: Tensor, codes: Tensor) -> dict[Split, tuple[Rows, Tensor]]:
    """x and y by split, in their own order. **Changes x**: a tensor is rearranged in place, not copied.

    Only validation and test samples are copied, so the peak of memory is little above the data itself. Splits that
    already follow one another are views.
    """
    if isinstance(x, StoredRows):
        stored = {split: (codes == code).nonzero().squeeze(1) for code, split in enumerate(SPLITS)}
        return {split: (x.subset(rows), y[rows]) for split, rows in stored.items()}
    return dict(_partition(x[:], y, codes))


def _partition(x: Tensor, y: Tensor, codes: Tensor) -> dict[Split, tuple[Tensor, Tensor]]:
    if bool((codes.diff() >= 0).all()):
        bounds = [0, *torch.bincount(codes, minlength=len(SPLITS)).cumsum(0).tolist()]
        return {s: (x[a:b], y[a:b]) for s, a, b in zip(SPLITS, bounds[:-1], bounds[1:], strict=True)}
    rows = {split: (codes == code).nonzero().squeeze(1) for code, split in enumerate(SPLITS)}
    parts: dict[Split, tuple[Tensor, Tensor]] = {
        split: (x[rows[split]], y[rows[split]]) for split in SPLITS if split != Split.TRAIN
    }
    train = rows[Split.TRAIN]
    for start in range(0, len(train), CHUNK):
        # Row i moves to a place <= i, so no row is overwritten before it has been moved.
        chunk = train[start : start + CHUNK]
        x[start : start + len(chunk)] = x[chunk]
    return {Split.TRAIN: (x[: len(train)], y[train]), **parts}
