"""Which labels mean that a sample has none, and labels that are indices of the teacher's outputs."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lit_core.data.errors import DatasetError, shown
from lit_core.data.labels import MOST_OUTPUTS, NO_LABEL, wrong_number
from lit_core.data.source import Source
from lit_spec import DatasetRequest
from lit_spec.requests.contents import MINUS_ONE

INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
FIELD = "dataset.unlabelled"
Place = Callable[[int], str]
"""Where the label with this index is, for messages."""


class Unlabelled:
    """The label that `dataset.unlabelled` names, and -1, which may be one or a class, as it is met in the data."""

    def __init__(self, request: DatasetRequest, if_class: str = "name all classes in dataset.class_order") -> None:
        """`if_class`: what to do if -1 is a class."""
        self._if_class = if_class
        self.label = None if request.unlabelled is None else str(request.unlabelled).strip()
        self._order = request.class_order or ()
        self._found = False
        self._minus_one: str | None = None
        """Where the first -1 is that nothing explains."""
        self._others = False

    def is_none(self, name: str, place: Callable[[], str]) -> bool:
        """Whether a sample whose label is this name or number has none. `place` says where it is, for messages."""
        if name == self.label:
            self._found = True
            return True
        if name != MINUS_ONE or self.label is not None or name in self._order:
            self._others = True
        elif self._minus_one is None:
            self._minus_one = place()
        return False

    def meet(self, *, found: bool = False, minus_one: str | None = None, others: bool = False) -> None:
        """Note what was met in a piece of the data; `minus_one` is the place of the first."""
        self._found |= found
        self._minus_one = minus_one if self._minus_one is None else self._minus_one
        self._others |= others

    def check(self) -> None:
        """Raises DatasetError if -1 is among other labels, and the request does not say what it means."""
        if self._minus_one is not None and self._others:
            raise DatasetError(
                f"{self._minus_one} is -1, and other samples have other labels: give {FIELD} -1 if the samples with "
                f"-1 have no label; if it is a class, {self._if_class}",
                field=FIELD,
                member=self._minus_one,
            )

    def notes(self) -> list[str]:
        """Raises DatasetError as `check`."""
        self.check()
        if self.label is not None and not self._found:
            return [f"no sample has the label {shown(self.label)}, which {FIELD} names"]
        return []

    @property
    def only_minus_one(self) -> bool:
        """Whether -1 is the only label, and the request does not say what it means."""
        return self._minus_one is not None and not self._others


class OutputLabels:
    """Labels that are indices of the teacher's outputs, as they are read piece by piece."""

    def __init__(self, source: Source) -> None:
        self._classes = source.classes
        self._unlabelled = Unlabelled(source.request, "number the classes from 0")
        label = self._unlabelled.label
        self._none = int(label) if label is not None and INTEGER.fullmatch(label) else None

    def take(
        self,
        values: NDArray[np.int64],
        place: Place,
        *,
        missing: NDArray[np.bool_] | None = None,
        described: Callable[[int], str] | None = None,
    ) -> NDArray[np.int64]:
        """Outputs (N,), NO_LABEL for a sample without a label, from labels (N,). Raises DatasetError.

        `missing` are the labels that are not there; `described` gives a label as the data has it.
        """
        there = np.ones(len(values), dtype=bool) if missing is None else ~missing
        none = there & (values == self._none) if self._none is not None else np.zeros(len(values), dtype=bool)
        minus_one = there & (values == NO_LABEL) & (self._unlabelled.label is None)
        others = there & ~none & ~minus_one
        outside = np.flatnonzero(others & ((values < 0) | (values >= (self._classes or MOST_OUTPUTS))))
        if len(outside):
            index = int(outside[0])
            raise DatasetError(
                f"{place(index)} is {described(index) if described else values[index]}{wrong_number(self._classes)}, "
                f"or for samples without a label the one that {FIELD} names, as -1",
                field=FIELD if self._classes is None else None,
                member=place(index),
            )
        first = int(np.argmax(minus_one)) if minus_one.any() else None
        self._unlabelled.meet(
            found=bool(none.any()), minus_one=None if first is None else place(first), others=bool(others.any())
        )
        return np.where(others, values, NO_LABEL)

    def notes(self) -> list[str]:
        """Raises DatasetError if -1 is among other labels, and the request does not say what it means."""
        notes = self._unlabelled.notes()
        return [*notes, "all labels are -1, which is read as no label"] if self._unlabelled.only_minus_one else notes


def whole_numbers(values: NDArray[np.float64], place: Place) -> NDArray[np.int64]:
    """(N,) integers that are written as floats, as pandas does where a value was missing. Raises DatasetError."""
    wrong = np.flatnonzero(~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**62)))
    if len(wrong):
        index = int(wrong[0])
        raise DatasetError(
            f"{place(index)} is {values[index]}: labels must be integers or texts, though integers may be written as "
            "floats",
            member=place(index),
        )
    return values.astype(np.int64)
