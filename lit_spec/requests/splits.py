"""How many samples are held out for the splits that a data set doesn't have."""

from __future__ import annotations

from collections.abc import Mapping

from lit_spec.base import SpecError, Split
from lit_spec.requests.dataset import DatasetRequest

LEAST_TRAINING_SAMPLES = 2


def split_sizes(samples: Mapping[Split, int], request: DatasetRequest) -> dict[Split, int]:
    """Samples of each split once the missing ones are held out from the training split. `samples`: of those that the
    data has. A test split that is an upload of its own is not counted. Raises SpecError.
    """
    given = {split: count for split, count in samples.items() if count}
    if Split.TRAIN not in given:
        raise SpecError("dataset", f'the split "{Split.TRAIN}" is empty: it needs samples')
    whole = left = given[Split.TRAIN]
    for split, name, fraction in (
        (Split.TEST, "test_fraction", request.test_fraction),
        (Split.VALIDATION, "validation_fraction", request.validation_fraction),
    ):
        if split == Split.TEST and request.test_upload is not None:
            given[split] = 0
        elif split not in given:
            given[split] = _held_out(whole, fraction, name, split, left)
            left -= given[split]
    if left < LEAST_TRAINING_SAMPLES:
        raise SpecError("dataset", f'the split "train" has {left} sample: at least {LEAST_TRAINING_SAMPLES} are needed')
    return {Split.TRAIN: left, Split.VALIDATION: given[Split.VALIDATION], Split.TEST: given[Split.TEST]}


def _held_out(samples: int, fraction: float, name: str, split: Split, left: int) -> int:
    count = round(samples * fraction)
    if count == 0:
        raise SpecError(
            f"dataset.{name}",
            f'the split "{split}" is empty: {name} {fraction:g} of {samples} training samples is not one sample; '
            f"raise {name} or give the split with the data",
        )
    if left - count < LEAST_TRAINING_SAMPLES:
        left_with = "is empty" if left == count else "is left with 1 sample"
        raise SpecError(
            f"dataset.{name}",
            f'the split "train" {left_with}: {name} {fraction:g} takes {count} of {left}; '
            "lower validation_fraction and test_fraction",
        )
    return count
