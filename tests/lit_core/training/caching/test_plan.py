"""When a cache pays, and how many views it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from lit_core.training.caching.plan import Room, Workload, planned, type_of
from lit_spec import CachedType, Precision, TeacherCacheOptions, TeacherCaching

GIB = 1 << 30
RESNET110 = (16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8, 10)
VALUES = sum(RESNET110)
ANY_FILE = 1 << 60
FLOAT16 = CachedType.FLOAT16
FEW = Workload(samples=500, passes=25.6, varies=True, shared=False, pieces=RESNET110)
TRIAL = Workload(samples=45_000, passes=30, varies=True, shared=True, pieces=RESNET110)


def room(size: int, of_a_file: int = ANY_FILE) -> Callable[[], Room]:
    return lambda: Room(size, of_a_file)


@pytest.mark.parametrize(
    ("work", "size", "views"),
    [
        (FEW, GIB, 8),
        (replace(FEW, passes=128), GIB, 32),  # at most, and a fifth of it would fit
        (replace(FEW, passes=129), GIB, None),  # each would be shown more than four times
        (replace(FEW, passes=60), GIB, 20),
        (replace(FEW, passes=60), GIB // 2, 18),  # as many as fit
        (replace(FEW, passes=60), GIB // 3, None),  # twelve would fit, but must be 15
        (replace(FEW, passes=23.9), GIB, None),  # seven views: too few
        (replace(FEW, samples=45_000, passes=30), 100 * GIB, 10),  # of any job, whatever its preset
        (replace(FEW, samples=45_000, passes=30), 16 * GIB, None),  # six would fit
        (replace(FEW, samples=45_000, passes=30, varies=False), 4 * GIB, 1),
        (replace(FEW, passes=11.9, shared=True), GIB, 11),
        (replace(FEW, passes=2, shared=True), GIB, None),
        (replace(FEW, passes=2, varies=False), GIB, 1),
        (replace(FEW, passes=1, varies=False), GIB, None),
        (replace(FEW, passes=1, varies=False, shared=True), GIB, 1),
        (TRIAL, 100 * GIB, 30),
        (TRIAL, 16 * GIB, 6),
        (TRIAL, 8 * GIB, None),
        (replace(TRIAL, varies=False), 4 * GIB, 1),
        (TRIAL, 0, None),
    ],
)
def test_an_automatic_cache_has_the_views_that_pay_and_fit(work: Workload, size: int, views: int | None) -> None:
    plan = planned(TeacherCaching.AUTO, work, room(size), FLOAT16)
    assert plan.views == views
    assert (plan.reason is None) == (views is not None)
    if plan.views is not None and plan.bytes_per_view is not None:
        # A mark for each row of each file.
        assert plan.bytes_per_view == work.samples * (2 * VALUES + len(RESNET110))
        assert plan.views * plan.bytes_per_view <= size


def test_the_reason_says_whether_there_are_too_few_passes_or_too_many() -> None:
    few, many = (planned(TeacherCaching.AUTO, replace(FEW, passes=passes), room(GIB), FLOAT16) for passes in (20, 300))
    assert few.reason == "20 passes over the data are too few for a cache to pay"
    assert many.reason == "300 passes over the data would show 32 views more than 4 times each"


def test_what_is_asked_for_is_done_or_refused_with_a_reason() -> None:
    asked = TeacherCacheOptions(views=3, dtype=CachedType.FLOAT32)
    dtype = type_of(asked, Precision.FLOAT32)
    plan = planned(asked, replace(FEW, passes=1), room(GIB), dtype)
    per_view = 500 * (4 * VALUES + len(RESNET110))
    assert (plan.views, plan.dtype, plan.bytes_per_view) == (3, CachedType.FLOAT32, per_view)
    none = planned(asked, FEW, room(10_000_000), dtype)
    assert none.views is None
    assert none.reason == f"3 views take {3 * per_view} bytes, but there is room for 10000000"


def test_a_file_that_may_not_be_written_is_not_planned() -> None:
    largest = 500 * (2 * RESNET110[0] + 1)
    assert planned(TeacherCaching.AUTO, FEW, room(GIB, largest), FLOAT16).views == 8
    none = planned(TeacherCaching.AUTO, FEW, room(GIB, largest - 1), FLOAT16)
    assert none.views is None
    assert none.reason == f"a view has a file of {largest} bytes, but the job may write {largest - 1}"


def test_what_is_computed_in_bfloat16_is_kept_in_it() -> None:
    for precision, dtype in ((Precision.FLOAT32, FLOAT16), (Precision.BFLOAT16, CachedType.BFLOAT16)):
        assert type_of(TeacherCaching.AUTO, precision) == dtype
