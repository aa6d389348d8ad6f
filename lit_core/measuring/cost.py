"""The cost of a network, whatever its task: parameters, FLOPs and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

LATENCY_SECONDS = 1.0
LATENCY_RUNS = 100
LATENCY_WARM_UP = 5


def count_parameters(network: nn.Module) -> int:
    """Parameters that several modules share count once."""
    return sum(parameter.numel() for parameter in network.parameters())


def ratio_of(teacher: float, student: float) -> float:
    """How many times smaller the student is, to four places."""
    return round(teacher / student, 4)


@torch.no_grad()
def flops(network: nn.Module, sample: tuple[Tensor, ...]) -> int:
    """FLOPs of one input (batch 1) as torch counts them: convolutions and matrix products, two per multiply-add."""
    with FlopCounterMode(display=False) as counter:
        network(*sample)
    return int(counter.get_total_flops())


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
    while len(times[0]) < LATENCY_RUNS and (time.monotonic() < end or len(times[0]) < 5):
        for network, measured in zip(networks, times, strict=True):
            measured.append(_timed(network, sample))
    return [_summary(measured) for measured in times]


def _timed(network: nn.Module, sample: tuple[Tensor, ...]) -> float:
    start = time.perf_counter()
    network(*sample)
    if sample[0].is_cuda:
        torch.cuda.synchronize(sample[0].device)
    return 1000 * (time.perf_counter() - start)


def _summary(times: list[float]) -> Latency:
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return Latency(round(statistics.median(times), 4), round(cuts[18], 4))
