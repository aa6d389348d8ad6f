"""The cost of a network and of its blocks, whatever its task: parameters, FLOPs and latency."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lit_core.measuring.intervals import Z
from lit_spec import Precision
from lit_spec.networks.students import NANOSECONDS_PER_MS, BlockCosts

Blocks = Sequence[nn.Sequential | Sequence[nn.Module]]
"""The blocks of each section."""
Place = tuple[int, int]
"""Section and index of a block."""

LATENCY_SECONDS = 1.0
LATENCY_RUNS = 100
LATENCY_WARM_UP = 5
LEAST_RUNS = 5
ENOUGH_RUNS = 20
"""Of which the medians may already be certain."""
UNCERTAINTY = 0.02
"""Half of a median's 95 % interval, relative to the median: less is certain."""
RUNTIME_SECONDS = 0.5
RUNTIME_RUNS = 20
RUNTIME_WARM_UP = 2
LEAST_RUNTIME_RUNS = 3
BLOCK_LATENCY_SECONDS = 3.0
LEAST_BLOCK_RUNS = 3


def count_parameters(network: nn.Module) -> int:
    """Parameters that several modules share count once."""
    return sum(parameter.numel() for parameter in network.parameters())


def ratio_of(teacher: float, student: float) -> float:
    """How many times smaller the student is, to four places."""
    return round(teacher / student, 4)


@torch.no_grad()
def flops(network: nn.Module, sample: tuple[Tensor, ...]) -> int:
    """FLOPs of one input (batch 1) as torch counts them: convolutions and matrix products, two per multiply-add."""
    with _counting_flops(network) as counter:
        network(*sample)
    return counter.get_total_flops()


@torch.no_grad()
def block_flops(network: nn.Module, blocks: Blocks, sample: tuple[Tensor, ...]) -> BlockCosts:
    """`flops` of a network in eval mode, and of each block. They can also be on the meta device."""
    with _counting_flops(network) as counter, _marked(blocks, counter.get_total_flops) as runs:
        network(*sample)
    return _block_costs(blocks, counter.get_total_flops(), _by_block(runs, _difference))


@contextmanager
def _counting_flops(network: nn.Module) -> Iterator[FlopCounterMode]:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    # The fused kernels of attention on the CPU are not counted, so it is done in its single steps. And the counter
    # fails where a module is given a parameter that has gradients.
    torch.backends.mha.set_fastpath_enabled(False)
    network.requires_grad_(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for parameter in learning:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass."""

    least_ms: float
    p50_ms: float
    p95_ms: float


@torch.no_grad()
def latencies(networks: Sequence[nn.Module], sample: tuple[Tensor, ...]) -> list[Latency]:
    """Latency of each network on one input of any batch size.

    They run in turns, so that all see the same machine: until all medians are certain, but at most `LATENCY_RUNS` times
    or for `LATENCY_SECONDS` for each network.
    """
    times: list[list[float]] = [[] for _ in networks]
    for network in networks:
        for _ in range(LATENCY_WARM_UP):
            _timed(network, sample)
    end = time.monotonic() + LATENCY_SECONDS * len(networks)
    while len(times[0]) < LATENCY_RUNS and (time.monotonic() < end or len(times[0]) < LEAST_RUNS):
        for network, measured in zip(networks, times, strict=True):
            measured.append(_timed(network, sample))
        if len(times[0]) >= ENOUGH_RUNS and all(map(_is_certain, times)):
            break
    return [_summary(measured) for measured in times]


def _is_certain(times: Sequence[float]) -> bool:
    """Whether the median's 95 % interval, which lies between two of the sorted times, is narrow."""
    ordered, half = sorted(times), Z * math.sqrt(len(times)) / 2
    low = max(math.floor(len(times) / 2 - half), 0)
    high = min(math.ceil(len(times) / 2 + half), len(times) - 1)
    return ordered[high] - ordered[low] <= 2 * UNCERTAINTY * statistics.median(ordered)


@torch.no_grad()
def latency_of_runs(run: Callable[[], object]) -> Latency:
    """Latency of `run`, over a fixed number of runs, or fewer if they take long. It waits for its own result."""
    for _ in range(RUNTIME_WARM_UP):
        run()
    times: list[float] = []
    end = time.monotonic() + RUNTIME_SECONDS
    while len(times) < RUNTIME_RUNS and (time.monotonic() < end or len(times) < LEAST_RUNTIME_RUNS):
        times.append(_milliseconds_of(run))
    return _summary(times)


@torch.no_grad()
def block_latencies(
    network: nn.Module,
    blocks: Blocks,
    shortest: nn.Module,
    sample: tuple[Tensor, ...],
    precision: Precision = Precision.FLOAT32,
    *,
    seconds: float = BLOCK_LATENCY_SECONDS,
) -> BlockCosts:
    """Nanoseconds of one forward pass, and how many fewer it takes without each of the blocks.

    `shortest` is the network with only the first block of each section. Both are in eval mode. They run in turns, and
    between them the network with a clock at each of its blocks. The blocks' times are then scaled, because what lies
    outside of the blocks is faster in a small network, which stays in the caches: so that the network without all
    blocks that `shortest` lacks takes what `shortest` took. Of many times the least counts, because any pass may be
    interrupted, but the total is the median.
    """
    whole: list[float] = []
    short: list[float] = []
    inside: dict[Place, list[float]] = defaultdict(list)
    with torch.autocast(sample[0].device.type, dtype=torch.bfloat16, enabled=precision == Precision.BFLOAT16):
        for one in (network, shortest):
            _warm_up(one, sample, seconds / 10)
        end = time.monotonic() + seconds
        while len(whole) < LATENCY_RUNS and (time.monotonic() < end or len(whole) < LEAST_BLOCK_RUNS):
            whole.append(_timed(network, sample))
            short.append(_timed(shortest, sample))
            for place, spent in _timed_blocks(network, blocks, sample).items():
                inside[place].append(spent)
    least = {place: min(times) for place, times in inside.items()}
    droppable = sum(spent for (_, index), spent in least.items() if index > 0)
    total = NANOSECONDS_PER_MS * statistics.median(whole)
    saved = total * max(1 - min(short) / min(whole), 0.0)
    scale = saved / droppable if droppable else 0.0
    return _block_costs(blocks, total, {place: scale * spent for place, spent in least.items()})


def _warm_up(network: nn.Module, sample: tuple[Tensor, ...], seconds: float) -> None:
    end = time.monotonic() + seconds
    for run in range(LATENCY_WARM_UP):
        if run == 0 or time.monotonic() < end:
            _timed(network, sample)


def _timed_blocks(network: nn.Module, blocks: Blocks, sample: tuple[Tensor, ...]) -> dict[Place, float]:
    """What each block takes in one forward pass. On a GPU the pass is not halted between the blocks."""
    cuda = sample[0].is_cuda
    mark, between = (_cuda_event, _milliseconds) if cuda else (time.perf_counter_ns, _difference)
    with _marked(blocks, mark) as runs:
        network(*sample)
    if cuda:
        torch.cuda.synchronize(sample[0].device)
    return _by_block(runs, between)


def _cuda_event() -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _milliseconds(start: Any, end: Any) -> float:
    elapsed: float = start.elapsed_time(end)
    return elapsed


def _difference(start: int, end: int) -> float:
    return end - start


@contextmanager
def _marked(blocks: Blocks, mark: Callable[[], Any]) -> Iterator[list[tuple[Place, Any, Any]]]:
    """Collects for each run of a block its place, and a mark before and one after it."""
    runs: list[tuple[Place, Any, Any]] = []
    started: dict[Place, Any] = {}

    def before(place: Place) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            started[place] = mark()

        return hook

    def after(place: Place) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            ended = mark()
            runs.append((place, started.pop(place), ended))

        return hook

    handles = [
        handle
        for section, modules in enumerate(blocks)
        for index, block in enumerate(modules)
        for handle in (
            block.register_forward_pre_hook(before((section, index))),
            block.register_forward_hook(after((section, index))),
        )
    ]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def _by_block(runs: Sequence[tuple[Place, Any, Any]], between: Callable[[Any, Any], float]) -> dict[Place, float]:
    """A block may be run several times."""
    spent: dict[Place, float] = defaultdict(float)
    for place, start, end in runs:
        spent[place] += between(start, end)
    return spent


def _block_costs(blocks: Blocks, total: float, spent: dict[Place, float]) -> BlockCosts:
    return BlockCosts(
        total=round(total),
        blocks=[
            [round(spent.get((section, index), 0.0)) for index in range(len(modules))]
            for section, modules in enumerate(blocks)
        ],
    )


def _timed(network: nn.Module, sample: tuple[Tensor, ...]) -> float:
    def run() -> None:
        network(*sample)
        if sample[0].is_cuda:
            torch.cuda.synchronize(sample[0].device)

    return _milliseconds_of(run)


def _milliseconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _summary(times: list[float]) -> Latency:
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return Latency(round(min(times), 4), round(statistics.median(times), 4), round(cuts[18], 4))
