"""What each block of a network takes of its latency."""

from __future__ import annotations

from torch import Tensor

from lit_core.measuring.cost import BLOCK_LATENCY_SECONDS, block_latencies
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_spec import Precision
from lit_spec.networks.students import BlockCosts


def latency_costs(
    network: SectionedNetwork,
    sample: tuple[Tensor, ...],
    precision: Precision = Precision.FLOAT32,
    *,
    seconds: float = BLOCK_LATENCY_SECONDS,
) -> BlockCosts:
    """`block_latencies` of a network in eval mode, measured beside its student of one block a section."""
    shortest = shortened(network, [[0] for _ in network.sections]).network.eval()
    return block_latencies(network.network, network.sections, shortest, sample, precision, seconds=seconds)
