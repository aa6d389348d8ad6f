"""The cost of a network and of its blocks, whatever its task: parameters, FLOPs and latency."""

from __future__ import annotations

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

from lit_spec import Precision
from lit_spec.networks.students import BlockCosts

Blocks = Sequence[nn.Sequential | Sequence[nn.Module]]
"""The blocks of each section."""
Place = tuple[int, int]
"""Section and index of a block."""

LATENCY_SECONDS = 1.0
LATENCY_RUNS = 100
LATENCY_WARM_UP = 5
LEAST_RUNS = 5
BLOCK_LATENCY_SECONDS = 3.0


def count_parameters(network: nn.Module) -> int:
    """Parameters that several modules share count once."""
    return sum(parameter.numel() for parameter in network.parameters())


def ratio_of(teacher: float, student: float) -> float:
    """How many times smaller the student is, to four places."""
    return round(teacher / student, 4)


@torch.no_grad()
def flops(network: nn.Module, sample: tuple[Tensor, ...]) -> int:
    """FLOPs of one input (batch 1) as torch counts them: convolutions and matrix products, two per multiply-add."""
    with _counting_flops() as counter:
        network(*sample)
    return counter.get_total_flops()


@torch.no_grad()
def block_flops(network: nn.Module, blocks: Blocks, sample: tuple[Tensor, ...]) -> BlockCosts:
    """`flops` of a network in eval mode, and of each block. They can also be on the meta device."""
    with _counting_flops() as counter, _marked(blocks, counter.get_total_flops) as runs:
        network(*sample)
    spent = _by_block(runs, lambda start, end: float(end - start))
    return _block_costs(blocks, counter.get_total_flops(), spent)


@contextmanager
def _counting_flops() -> Iterator[FlopCounterMode]:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fused kernels of attention on the CPU are not counted, so it is done in its single steps.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass."""

    p50_ms: float
    p95_ms: float


@torch.no_grad()
def latencies(networks: Sequence[nn.Module], sample: tuple[Tensor, ...]) -> list[Latency]:
    """Latency of each network on one input of any batch size. They run in turns, so that all see the same machine."""
    times: list[list[float]] = [[] for _ in networks]
    for network in networks:
        for _ in range(LATENCY_WARM_UP):
            _timed(network, sample)
    end = time.monotonic() + LATENCY_SECONDS * len(networks)
    while len(times[0]) < LATENCY_RUNS and (time.monotonic() < end or len(times[0]) < LEAST_RUNS):
        for network, measured in zip(networks, times, strict=True):
            measured.append(_timed(network, sample))
    return [_summary(measured) for measured in times]


@torch.no_grad()
def block_latencies(
    network: nn.Module,
    blocks: Blocks,
    sample: tuple[Tensor, ...],
    precision: Precision = Precision.FLOAT32,
    *,
    seconds: float = BLOCK_LATENCY_SECONDS,
) -> BlockCosts:
    """Nanoseconds of one forward pass of a network in eval mode, and of each block in it.

    Passes in which the blocks are timed, which takes time itself, alternate with passes that are only timed as a
    whole. A block's latency is the median of its share of the former, times the median of the latter. So what a student
    is expected to take is what the whole network takes, without the blocks that it lacks.
    """
    whole: list[float] = []
    shares: dict[Place, list[float]] = defaultdict(list)
    with torch.autocast(sample[0].device.type, dtype=torch.bfloat16, enabled=precision == Precision.BFLOAT16):
        for _ in range(LATENCY_WARM_UP):
            _timed(network, sample)
        end = time.monotonic() + seconds
        while len(whole) < LATENCY_RUNS and (time.monotonic() < end or len(whole) < LEAST_RUNS):
            whole.append(_timed(network, sample))
            for place, share in _timed_blocks(network, blocks, sample).items():
                shares[place].append(share)
    total = 1e6 * statistics.median(whole)
    return _block_costs(blocks, total, {place: total * statistics.median(found) for place, found in shares.items()})


def _timed_blocks(network: nn.Module, blocks: Blocks, sample: tuple[Tensor, ...]) -> dict[Place, float]:
    """Each block's share of one forward pass. On a GPU it is not halted between the blocks, as it is not otherwise."""
    cuda = sample[0].is_cuda
    mark, between = (_cuda_event, _milliseconds) if cuda else (time.perf_counter_ns, lambda start, end: end - start)
    start = mark()
    with _marked(blocks, mark) as runs:
        network(*sample)
    end = mark()
    if cuda:
        torch.cuda.synchronize(sample[0].device)
    whole = between(start, end)
    return {place: spent / whole for place, spent in _by_block(runs, between).items()}


def _cuda_event() -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _milliseconds(start: Any, end: Any) -> float:
    elapsed: float = start.elapsed_time(end)
    return elapsed


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
    """A block that is run several times spends them all."""
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
    start = time.perf_counter()
    network(*sample)
    if sample[0].is_cuda:
        torch.cuda.synchronize(sample[0].device)
    return 1000 * (time.perf_counter() - start)


def _summary(times: list[float]) -> Latency:
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return Latency(round(statistics.median(times), 4), round(cuts[18], 4))
