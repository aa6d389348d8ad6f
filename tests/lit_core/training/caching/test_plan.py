"""When a cache pays, and how many views it has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lit_core.training.caching.plan import Workload, planned
from lit_spec import CachedType, Precision, TeacherCacheOptions, TeacherCaching

GIB = 1 << 30
RESNET110 = 16 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8 + 10
FEW = Workload(samples=500, passes=25.6, varies=True, shared=False, values=RESNET110)
CIFAR = Workload(samples=45_000, passes=30, varies=True, shared=False, values=RESNET110)


@pytest.mark.parametrize(
    ("work", "room", "views"),
    [
        (FEW, GIB, 8),
        (replace(FEW, passes=128), GIB, 32),  # at most, and a fifth of it would fit
        (replace(FEW, passes=11.9), GIB, None),  # three views: too few
        (replace(FEW, passes=11.9, shared=True), GIB, 11),
        (replace(FEW, passes=2, shared=True), GIB, None),
        (replace(FEW, passes=2, varies=False), GIB, 1),
        (replace(FEW, passes=1, varies=False), GIB, None),
        (replace(FEW, passes=1, varies=False, shared=True), GIB, 1),
        (CIFAR, 30 * GIB, 10),
        (CIFAR, 16 * GIB, 6),
        (CIFAR, 8 * GIB, None),
        (replace(CIFAR, varies=False), 4 * GIB, 1),
        (CIFAR, 0, None),
    ],
)
def test_an_automatic_cache_has_a_view_for_three_passes_and_fits(work: Workload, room: int, views: int | None) -> None:
    plan = planned(TeacherCaching.AUTO, work, room, Precision.FLOAT32)
    assert plan.views == views
    assert (plan.reason is None) == (views is not None)
    if plan.views is not None and plan.bytes_per_view is not None:
        assert plan.bytes_per_view == work.samples * (2 * work.values + 1)
        assert plan.views * plan.bytes_per_view <= room


def test_what_is_asked_for_is_done_or_refused_with_a_reason() -> None:
    asked = TeacherCacheOptions(views=3, dtype=CachedType.FLOAT32)
    plan = planned(asked, replace(FEW, passes=1), GIB, Precision.FLOAT32)
    assert (plan.views, plan.dtype, plan.bytes_per_view) == (3, CachedType.FLOAT32, 500 * (4 * RESNET110 + 1))
    none = planned(asked, FEW, 10_000_000, Precision.FLOAT32)
    assert none.views is None
    assert none.reason == f"3 views take {3 * 500 * (4 * RESNET110 + 1)} bytes, but there is room for 10000000"


def test_what_is_computed_in_bfloat16_is_kept_in_it() -> None:
    for precision, dtype in ((Precision.FLOAT32, CachedType.FLOAT16), (Precision.BFLOAT16, CachedType.BFLOAT16)):
        assert planned(TeacherCaching.AUTO, FEW, GIB, precision).dtype == dtype
