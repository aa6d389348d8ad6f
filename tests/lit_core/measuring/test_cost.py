"""What blocks cost: FLOPs to the last one, and latency by a clock that the blocks turn themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_core.measuring import cost
from lit_core.measuring.cost import Latency, block_flops, block_latencies, flops, latencies
from lit_core.networks.families.library import as_shapes, create, describe
from lit_core.networks.families.resnet_cifar import ResNetCifar
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_spec import Architecture, Library, LibraryRequest
from lit_spec.networks.students import NANOSECONDS_PER_MS

IMAGE = (torch.zeros(1, 3, 16, 16),)


def resnet() -> SectionedNetwork:
    family = ResNetCifar()
    options = {"width": 4, "shortcut": "B", "head": "fc", "projection": "downsample"}
    found = Architecture(family=family.name, depth=20, blocks=[3, 3, 3], channels=3, classes=10, options=options)
    teacher = SectionedNetwork(family.build(found), family.layout(found))
    teacher.freeze()
    return teacher


def test_a_student_has_the_flops_that_its_blocks_leave_it() -> None:
    teacher = resnet()
    costs = block_flops(teacher.network, teacher.sections, IMAGE)
    assert costs.total == flops(teacher.network, IMAGE)
    for kept in ([[0], [0], [0]], [[0, 2], [0, 1, 2], [0]], [[1, 2], [0, 2], [0, 1]]):
        assert costs.left(kept) == flops(shortened(teacher, kept).network, IMAGE)


def test_flops_are_the_same_with_values_and_without() -> None:
    """The kernels of attention on the CPU are others, and a class token is a parameter that a module is given."""
    for library, name, kwargs in (
        (Library.TIMM, "cait_xxs24_224", {"depth": 6}),
        (Library.TORCHVISION, "vit_b_32", {}),
    ):
        request = LibraryRequest(library=library, name=name, kwargs=kwargs)
        shapes = as_shapes(lambda request=request: create(request.library, request.name, request.kwargs))
        found = describe(request, shapes).network
        assert found is not None
        blocks = [[shapes.get_submodule(path) for path in paths] for paths in found.sections]
        shapes.eval()
        without = block_flops(shapes, blocks, (torch.zeros(1, 3, *found.size, device="meta"),))
        network = create(library, name, kwargs).eval()
        assert flops(network, (torch.zeros(1, 3, *found.size),)) == without.total
        assert 0.9 < sum(map(sum, without.blocks)) / without.total < 1
        assert all(parameter.requires_grad for parameter in network.parameters())


class Clock:
    """Stands still unless a network turns it."""

    def __init__(self) -> None:
        self.nanoseconds = 0

    def perf_counter_ns(self) -> int:
        return self.nanoseconds

    def perf_counter(self) -> float:
        return self.nanoseconds / 1e9

    def monotonic(self) -> float:
        return 0.0


class Takes(nn.Module):
    def __init__(self, clock: Clock, ms: float) -> None:
        super().__init__()
        self.clock, self.ms = clock, ms

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock.nanoseconds += round(self.ms * NANOSECONDS_PER_MS)
        return x


def chain(clock: Clock, *times: float) -> nn.Sequential:
    return nn.Sequential(*(Takes(clock, ms) for ms in times))


def test_a_blocks_latency_is_what_a_pass_takes_less_without_it(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    network = chain(clock, 5, 1, 2, 1, 4, 8)
    # A stem, two sections of two and three blocks, and no head.
    blocks = [[network[1], network[2]], [network[3], network[4], network[5]]]
    shortest = chain(clock, 5, 1, 1)
    costs = block_latencies(network, blocks, shortest, IMAGE)
    assert costs.total == 21 * NANOSECONDS_PER_MS
    assert costs.blocks == [[one * NANOSECONDS_PER_MS for one in of_section] for of_section in ([1, 2], [1, 4, 8])]
    assert costs.left([[0], [0, 2]]) == 15 * NANOSECONDS_PER_MS


def test_the_shortest_student_is_expected_to_take_what_it_took(monkeypatch) -> None:
    """In it the stem is faster, because it stays in the caches."""
    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    network, shortest = chain(clock, 5, 1, 2, 4), chain(clock, 2, 1)
    costs = block_latencies(network, [[network[1], network[2], network[3]]], shortest, IMAGE)
    assert costs.left([[0]]) == 3 * NANOSECONDS_PER_MS
    assert costs.left([[0, 2]]) == 9 * NANOSECONDS_PER_MS


def test_a_block_that_runs_twice_costs_twice(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    twice = Takes(clock, 2)
    network = nn.Sequential(Takes(clock, 1), twice, twice)
    costs = block_latencies(network, [[network[0], twice]], chain(clock, 1), IMAGE)
    assert costs.blocks == [[1 * NANOSECONDS_PER_MS, 4 * NANOSECONDS_PER_MS]]


class Varies(nn.Module):
    """Takes these times in turn."""

    def __init__(self, clock: Clock, *times: float) -> None:
        super().__init__()
        self.clock, self.times, self.runs = clock, times, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock.nanoseconds += round(self.times[self.runs % len(self.times)] * NANOSECONDS_PER_MS)
        self.runs += 1
        return x


@pytest.mark.parametrize(
    ("times", "runs"),
    [
        ((4.0,), cost.ENOUGH_RUNS),
        ((4.0, 4.05), cost.ENOUGH_RUNS),
        # One pass of twenty is interrupted, which moves no median.
        ((*[4.0] * 19, 90.0), cost.ENOUGH_RUNS),
        ((3.0, 5.0), cost.LATENCY_RUNS),
    ],
)
def test_latencies_are_measured_until_all_medians_are_certain(monkeypatch, times: tuple[float, ...], runs: int) -> None:
    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    steady, other = Takes(clock, 2), Varies(clock, *times)
    found = latencies([steady, other], IMAGE)
    assert found[0] == Latency(2.0, 2.0, 2.0)
    assert other.runs == cost.LATENCY_WARM_UP + runs
    assert min(times) <= found[1].p50_ms <= sorted(times)[len(times) // 2]


def test_latencies_of_slow_networks_are_measured_for_a_time(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    monkeypatch.setattr(clock, "monotonic", clock.perf_counter)
    slow = Varies(clock, 200.0, 300.0)
    latencies([slow], IMAGE)
    assert slow.runs == cost.LATENCY_WARM_UP + cost.LEAST_RUNS
