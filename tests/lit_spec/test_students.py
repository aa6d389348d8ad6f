"""Which student a ratio gives: of all that are small enough, the deepest, and of those the least reduced one."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_spec.networks import students
from lit_spec.networks.catalogue import find_entry
from lit_spec.networks.students import (
    ParameterCounts,
    SharedParameters,
    evenly,
    least_reduced,
    most_left,
    shares,
    unbeaten,
)

RATIOS = st.floats(1.0, 4.0, exclude_min=True)
SIZES = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=5), min_size=1, max_size=4)


def left_in(counts: ParameterCounts, blocks: list[int]) -> int:
    return counts.left([evenly(len(sizes), own) for sizes, own in zip(counts.blocks, blocks, strict=True)])


def all_blocks(counts: ParameterCounts) -> list[list[int]]:
    return [list(blocks) for blocks in product(*(range(1, len(sizes) + 1) for sizes in counts.blocks))]


def fits(counts: ParameterCounts, blocks: list[int], ratio: float) -> bool:
    return counts.total >= ratio * left_in(counts, blocks)


@st.composite
def networks(draw: st.DrawFn, *, shared_between_sections: bool = False) -> ParameterCounts:
    blocks = draw(SIZES)
    places = [(section, index) for section, sizes in enumerate(blocks) for index in range(len(sizes))]
    shared = []
    for _ in range(draw(st.integers(0, 2))):
        section = draw(st.integers(0, len(blocks) - 1))
        among = places if shared_between_sections else [place for place in places if place[0] == section]
        owners = draw(st.lists(st.sampled_from(among), min_size=1, max_size=3, unique=True))
        if len(owners) > 1:
            shared.append(SharedParameters(blocks=sorted(owners), parameters=draw(st.integers(1, 60))))
    outside = draw(st.integers(1, 60))
    total = outside + sum(map(sum, blocks)) + sum(group.parameters for group in shared)
    return ParameterCounts(total=total, blocks=blocks, shared=shared)


@given(counts=networks(), ratio=RATIOS)
def test_no_student_that_is_small_enough_is_less_reduced(counts: ParameterCounts, ratio: float) -> None:
    enough = [blocks for blocks in all_blocks(counts) if fits(counts, blocks, ratio)]
    found = least_reduced(counts, most_left(counts.total, ratio))
    if found is None:
        assert enough == []
        return
    assert found in enough
    deepest = [blocks for blocks in enough if sum(blocks) == max(map(sum, enough))]
    assert found in deepest
    most = max(left_in(counts, blocks) for blocks in deepest)
    assert left_in(counts, found) == most
    tied = [blocks for blocks in deepest if left_in(counts, blocks) == most]
    even = shares([len(sizes) for sizes in counts.blocks], sum(found))
    assert found == even or even not in tied


@given(counts=networks(), ratio=RATIOS)
def test_the_rule_that_chooses_blocks_decides_what_is_saved(counts: ParameterCounts, ratio: float) -> None:
    """Here the last blocks stay."""

    def keep(section: int, count: int) -> list[int]:
        whole = len(counts.blocks[section])
        return list(range(whole - count, whole))

    def cost(blocks: list[int]) -> int:
        return counts.left([keep(section, count) for section, count in enumerate(blocks)])

    most = most_left(counts.total, ratio)
    enough = [(sum(blocks), cost(blocks)) for blocks in all_blocks(counts) if cost(blocks) <= most]
    found = least_reduced(counts, most, keep)
    assert (None if found is None else (sum(found), cost(found))) == max(enough, default=None)


@given(counts=networks(shared_between_sections=True), ratio=RATIOS)
def test_parameters_that_sections_share_count_in_favour_of_the_ratio_only(
    counts: ParameterCounts, ratio: float
) -> None:
    whole = [len(sizes) for sizes in counts.blocks]
    even = [shares(whole, depth) for depth in range(len(whole), sum(whole) + 1)]
    enough = [(sum(blocks), left_in(counts, blocks)) for blocks in even if fits(counts, blocks, ratio)]
    found = least_reduced(counts, most_left(counts.total, ratio))
    if found is None:
        assert enough == []
        return
    assert fits(counts, found, ratio)
    assert (sum(found), left_in(counts, found)) >= max(enough, default=(0, 0))


@given(counts=networks(), ratio=RATIOS, most_sums=st.integers(1, 6))
def test_a_search_that_leaves_sums_out_finds_a_student_wherever_there_is_one(
    counts: ParameterCounts, ratio: float, most_sums: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(students, "MOST_SUMS", most_sums)
        found = least_reduced(counts, most_left(counts.total, ratio))
    assert (found is None) == (not any(fits(counts, blocks, ratio) for blocks in all_blocks(counts)))
    assert found is None or fits(counts, found, ratio)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    parameters=st.integers(1, 100),
    dropped=st.integers(1, 23),
)
def test_equal_blocks_are_shared_as_for_a_depth(sizes: list[int], parameters: int, dropped: int) -> None:
    counts = ParameterCounts(total=1 + parameters * sum(sizes), blocks=[[parameters] * size for size in sizes])
    depth = sum(sizes) - dropped
    if depth >= len(sizes):
        ratio = counts.total / (counts.total - parameters * dropped)
        assert least_reduced(counts, most_left(counts.total, ratio * (1 - 1e-9))) == shares(sizes, depth)


def test_a_real_network_loses_no_more_than_the_ratio_asks_for() -> None:
    entry = find_entry("timm", "tf_efficientnet_lite0")
    assert entry is not None
    counts = ParameterCounts(total=entry.parameters, blocks=entry.block_parameters)
    found = least_reduced(counts, most_left(counts.total, 1.3))
    assert found == [2, 2, 3, 2, 2]
    assert counts.total / left_in(counts, found) == pytest.approx(1.318, abs=1e-3)
    even = next(option for option in reversed(entry.students) if option.parameters_ratio >= 1.3)
    assert (even.depth, even.parameters_ratio) == (10, 1.349)


def test_the_largest_networks_take_a_moment_only() -> None:
    """All combinations of HRNet's blocks would be 4^27."""
    entry = find_entry("timm", "hrnet_w64")
    assert entry is not None
    counts = ParameterCounts(total=entry.parameters, blocks=entry.block_parameters)
    found = least_reduced(counts, most_left(counts.total, 1.3))
    assert found is not None
    assert 1.3 <= counts.total / left_in(counts, found) < 1.301


@pytest.mark.parametrize(
    ("measured", "front"),
    [
        ({}, []),
        ({"slow and good": (1.0, 9.0), "fast and poor": (3.0, 5.0), "between": (2.0, 7.0)}, [0, 1, 2]),
        ({"beaten in both": (1.0, 5.0), "better": (2.0, 6.0)}, [1]),
        ({"equal in one": (2.0, 5.0), "better": (2.0, 6.0)}, [1]),
        ({"equals": (2.0, 6.0), "don't beat each other": (2.0, 6.0)}, [0, 1]),
    ],
)
def test_the_front_has_those_that_no_other_one_beats(
    measured: dict[str, tuple[float, float]], front: list[int]
) -> None:
    assert unbeaten(measured) == [list(measured)[place] for place in front]
