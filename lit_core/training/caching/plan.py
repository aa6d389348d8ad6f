"""Whether the teacher is cached, and with how many views: decided once for a training, before its first step."""

from __future__ import annotations

from dataclasses import dataclass

from lit_spec import CachedType, Precision, TeacherCacheOptions, TeacherCaching
from lit_spec.trainer.report import CachePlan

LEAST_VIEWS, MOST_VIEWS = 4, 32
"""Of an automatic cache, where samples vary at random. With fewer views the student would see too little."""
PASSES_PER_VIEW = 3
"""An automatic cache has one view for so many passes over the data: the teacher is run in a third of them."""


@dataclass(frozen=True)
class Workload:
    """What a training would read from a cache."""

    samples: int
    passes: float
    """Over the data, in all phases."""
    varies: bool
    """Whether a sample looks different from pass to pass."""
    shared: bool
    """Whether other jobs are likely to need the same, as the trials of a study do."""
    values: int
    """That are kept of one sample in one view."""


def planned(asked: TeacherCaching | TeacherCacheOptions, work: Workload, room: int, precision: Precision) -> CachePlan:
    """`room` are the bytes that the cache may take. It depends on nothing that is measured, so that a training that
    begins again decides the same. `precision` is the teacher's."""
    if isinstance(asked, TeacherCacheOptions):
        return _fitted(asked.views, asked.views, asked.dtype, work, room)
    least, views = LEAST_VIEWS if work.varies else 1, _views_that_pay(work)
    if views < least:
        return CachePlan(reason=f"{work.passes:.3g} passes over the data are too few for a cache to pay")
    return _fitted(least, views, _usual_type(precision), work, room)


def _fitted(least: int, most: int, dtype: CachedType, work: Workload, room: int) -> CachePlan:
    """As many views as fit into so many bytes."""
    # One more for the mark that says that it is there.
    per_view = work.samples * (work.values * dtype.bytes + 1)
    if least * per_view > room:
        return CachePlan(reason=f"{least} views take {least * per_view} bytes, but there is room for {room}")
    return CachePlan(views=min(most, room // per_view), dtype=dtype, bytes_per_view=per_view)


def _views_that_pay(work: Workload) -> int:
    if not work.varies:
        return 1 if work.passes > 1 or work.shared else 0
    # Others read what one job has written, so that it pays even if each pass has its own view.
    wanted = work.passes if work.shared else work.passes / PASSES_PER_VIEW
    return min(MOST_VIEWS, int(wanted))


def _usual_type(precision: Precision) -> CachedType:
    """What the teacher computes in bfloat16 is kept as it is."""
    return CachedType.BFLOAT16 if precision == Precision.BFLOAT16 else CachedType.FLOAT16
