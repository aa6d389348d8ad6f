"""Labels of samples."""

from __future__ import annotations

from torch import Tensor

NO_LABEL = -1
"""The label of a sample without a label."""
MOST_OUTPUTS = 1 << 17
"""Of a teacher that isn't known."""


def wrong_number(classes: int | None) -> str:
    """What to say of a label that is no output's number; `classes`: of the teacher, if it is known."""
    teacher = "" if classes is None else f", but the teacher has {classes} classes"
    return f"{teacher}: labels must be 0..{(classes or MOST_OUTPUTS) - 1}"


def output_names(y: Tensor, classes: int | None) -> list[str]:
    """Of outputs that nothing names: their numbers. `classes` None: up to the largest label, or the columns of
    attributes."""
    found = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    return [str(output) for output in range(found if classes is None else classes)]
