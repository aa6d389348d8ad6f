"""What a user should know of a data set before trusting what is measured on it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lit_core.data.errors import shown
from lit_core.data.labels import NO_LABEL
from lit_spec import Split

NAMED = 10
FEW = 10
"""Fewer samples than this may be of one class by chance."""


def repeated(split: Split, samples: ArrayLike, trained: ArrayLike) -> list[str]:
    """A note for samples that are in the training split as well. Both are hashes; each sample counts once."""
    again = len(np.intersect1d(np.asarray(samples, np.int64), np.asarray(trained, np.int64)))
    if not again:
        return []
    return [
        f'{again} different samples of the split "{split}" are in the training split as well, so that what is measured '
        "on them says little of new ones"
    ]


def of_one_class(split: Split, y: Tensor, classes: Sequence[str]) -> list[str]:
    """A note for a split whose labels (N,) are all the same."""
    found = torch.unique(y[y != NO_LABEL]).tolist() if y.ndim == 1 else []
    if len(found) != 1 or len(classes) < 2 or len(y) < FEW:
        return []
    return [f'all labels of the split "{split}" are {shown(classes[found[0]])}']


def nearly_all_different(labelled: int, classes: Sequence[str]) -> list[str]:
    """A note for labels that are hardly ever the same twice, as texts in the place of labels."""
    if labelled < FEW or len(classes) * 2 <= labelled:
        return []
    return [
        f"{labelled} samples have {len(classes)} different labels, as {shown(classes[0])}: a table without a header "
        "that names the columns has the label in its first column"
    ]


def alike(classes: Sequence[str]) -> list[str]:
    """A note for names that differ by case, spaces or Unicode form alone, as misspelt labels do."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    found = [names for names in groups.values() if len(names) > 1]
    if not found:
        return []
    named = ", ".join(" and ".join(map(shown, names[:NAMED])) for names in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return [f"classes whose names differ by case, spaces or Unicode form alone: {named}{more}"]
