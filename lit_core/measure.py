"""What is measured of a network: accuracy, parameters, FLOPs and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lit_core.data import Dataset
from lit_core.spec import Split

EVALUATION_BATCH = 256
LATENCY_SECONDS = 1.0
LATENCY_RUNS = 100
LATENCY_WARM_UP = 5


@dataclass(frozen=True)
class Accuracy:
    """In percent. `chance` is the share of the most frequent class, which a constant answer reaches."""

    top1: float
    chance: float
    samples: int


@torch.no_grad()
def accuracy(network: nn.Module, dataset: Dataset, split: Split, device: torch.device) -> Accuracy:
    """Top-1 accuracy on a split; the network's mode is put back."""
    arrays = dataset.splits[split]
    training = {module: module.training for module in network.modules()}
    network.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(arrays.y), EVALUATION_BATCH):
        x = dataset.preprocessing.apply(arrays.x[start : start + EVALUATION_BATCH].to(device))
        labels = arrays.y[start : start + EVALUATION_BATCH].to(device)
        right += (network(x).argmax(dim=1) == labels).sum()
    for module, mode in training.items():
        module.training = mode
    samples = len(arrays.y)
    most_frequent = int(torch.bincount(arrays.y).max())
    return Accuracy(100 * int(right) / samples, 100 * most_frequent / samples, samples)


def near_chance(measured: Accuracy) -> bool:
    """Not above chance by 5 points and three standard errors: such a teacher has nothing to teach."""
    share = measured.chance / 100
    standard_error = 100 * (share * (1 - share) / measured.samples) ** 0.5
    return bool(measured.top1 < measured.chance + max(5.0, 3 * standard_error))


@torch.no_grad()
def flops(network: nn.Module, sample: Tensor) -> int:
    """FLOPs of one input (1, C, H, W) as torch counts them: two a multiply-add, matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        network(sample)
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass."""

    p50_ms: float
    p95_ms: float


@torch.no_grad()
def latencies(networks: Sequence[nn.Module], sample: Tensor) -> list[Latency]:
    """Of each network on `sample` (B, C, H, W), in turns, so that all see the same machine."""
    times: list[list[float]] = [[] for _ in networks]
    for network in networks:
        for _ in range(LATENCY_WARM_UP):
            _timed(network, sample)
    end = time.monotonic() + LATENCY_SECONDS * len(networks)
    while len(times[0]) < LATENCY_RUNS and (time.monotonic() < end or len(times[0]) < 5):
        for network, measured in zip(networks, times, strict=True):
            measured.append(_timed(network, sample))
    return [_summary(measured) for measured in times]


def _timed(network: nn.Module, sample: Tensor) -> float:
    start = time.perf_counter()
    network(sample)
    if sample.is_cuda:
        torch.cuda.synchronize(sample.device)
    return 1000 * (time.perf_counter() - start)


def _summary(times: list[float]) -> Latency:
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return Latency(round(statistics.median(times), 4), round(cuts[18], 4))
