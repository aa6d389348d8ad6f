"""Whether the teacher is cached, and with how many views: decided once for a training, before its first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lit_spec import CachedType, Precision, TeacherCacheOptions, TeacherCaching
from lit_spec.trainer.report import CachePlan

PASSES_PER_VIEW = 3
"""An automatic cache has one view for so many passes over the data: the teacher is run in a third of them."""
LEAST_VIEWS, MOST_PASSES_PER_VIEW = 8, 4
"""Where samples vary at random. With fewer views, or with views that are shown more often, students come less close to
the teacher: docs/method.md has the figures."""
LEAST_SHARED_VIEWS = 4
"""The same for the trials of a study, which are compared with each other, and all but the first read."""
MOST_VIEWS = 32
"""Each takes room on the disk."""


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
    pieces: tuple[int, ...]
    """The values that are kept of one sample in one view, in a file for each piece."""


@dataclass(frozen=True)
class Room:
    """Bytes that a cache may take."""

    all: int
    of_a_file: int


FindRoom = Callable[[], Room]


def planned(
    asked: TeacherCaching | TeacherCacheOptions, work: Workload, find_room: FindRoom, dtype: CachedType
) -> CachePlan:
    """It depends on nothing that is measured, so that a training that begins again decides the same.

    `find_room` is called if the cache would pay.
    """
    if isinstance(asked, TeacherCacheOptions):
        return _fitted(asked.views, asked.views, dtype, work, find_room)
    wanted, least = _views_that_pay(work), _least_views(work)
    if wanted < least:
        passes = f"{work.passes:.3g} passes over the data"
        if wanted == MOST_VIEWS:
            return CachePlan(reason=f"{passes} would show {wanted} views more than {MOST_PASSES_PER_VIEW} times each")
        return CachePlan(reason=f"{passes} are too few for a cache to pay")
    return _fitted(least, wanted, dtype, work, find_room)


def type_of(asked: TeacherCaching | TeacherCacheOptions, precision: Precision) -> CachedType:
    """In which the teacher's numbers are kept. `precision` is the teacher's: what it computes in bfloat16 is kept as it
    is."""
    if isinstance(asked, TeacherCacheOptions):
        return asked.dtype
    return CachedType.BFLOAT16 if precision == Precision.BFLOAT16 else CachedType.FLOAT16


def _fitted(least: int, most: int, dtype: CachedType, work: Workload, find_room: FindRoom) -> CachePlan:
    """As many views as fit."""
    # One more for the mark that says that it is there.
    room = find_room()
    files = [work.samples * (values * dtype.bytes + 1) for values in work.pieces]
    per_view, largest = sum(files), max(files, default=0)
    if largest > room.of_a_file:
        return CachePlan(reason=f"a view has a file of {largest} bytes, but the job may write {room.of_a_file}")
    if least * per_view > room.all:
        return CachePlan(reason=f"{least} views take {least * per_view} bytes, but there is room for {room.all}")
    return CachePlan(views=min(most, room.all // max(per_view, 1)), dtype=dtype, bytes_per_view=per_view)


def _views_that_pay(work: Workload) -> int:
    if not work.varies:
        return 1 if work.passes > 1 or work.shared else 0
    # Others read what one job has written, so that it pays even if each pass has its own view.
    wanted = work.passes if work.shared else work.passes / PASSES_PER_VIEW
    return min(MOST_VIEWS, int(wanted))


def _least_views(work: Workload) -> int:
    """Fewer would make the student worse."""
    if not work.varies:
        return 1
    if work.shared:
        return LEAST_SHARED_VIEWS
    return max(LEAST_VIEWS, math.ceil(work.passes / MOST_PASSES_PER_VIEW))
