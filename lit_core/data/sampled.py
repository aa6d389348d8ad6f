"""Some samples of a split, for what must not take longer where there are more data."""

from __future__ import annotations

import torch

from lit_core.data.dataset import Arrays
from lit_core.data.labels import NO_LABEL
from lit_core.data.store.rows import StoredRows
from lit_core.seeding import generator_of


def at_most(samples: int, arrays: Arrays) -> Arrays:
    """So many of a classifier's samples, drawn at random, those with a label first. All, where there are no more.

    The same ones in every job with the same data.
    """
    if len(arrays.y) <= samples:
        return arrays
    drawn = torch.randperm(len(arrays.y), generator=generator_of("sampled"))
    unlabelled = (arrays.y[drawn] == NO_LABEL).to(torch.uint8)
    rows = drawn[torch.argsort(unlabelled, stable=True)][:samples].sort().values
    x = arrays.x.subset(rows) if isinstance(arrays.x, StoredRows) else arrays.x[rows]
    return Arrays(x, arrays.y[rows])
