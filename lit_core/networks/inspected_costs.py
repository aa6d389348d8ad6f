"""What an inspection counts and measures of a teacher's blocks, for one input of the usual size."""

from __future__ import annotations

import torch

from lit_core.measuring.cost import block_flops
from lit_core.networks.block_costs import latency_costs
from lit_core.networks.families import family_of
from lit_core.networks.sections import SectionedNetwork
from lit_spec import Architecture
from lit_spec.networks.architecture import InspectedLatency
from lit_spec.networks.students import BlockCosts

MOST_PARAMETERS = 100_000_000
MOST_FLOPS = 10_000_000_000
"""Larger networks would take more than a few seconds to build and to run."""
THREADS = 1
"""With several, a pass may take hundreds of times longer while others use the processors, and all their time together
counts against what an inspection may use."""
SECONDS = 1.0


def input_shape(architecture: Architecture) -> list[int]:
    """Of the network's first input, without the batch."""
    with torch.device("meta"):
        return list(family_of(architecture).sample(architecture)[0].shape[1:])


def count_flops(architecture: Architecture, network: SectionedNetwork) -> BlockCosts | None:
    """`network` may be on the meta device. None if it can't be run there."""
    network.network.eval()
    with next(network.network.parameters()).device:
        sample = family_of(architecture).sample(architecture)
    try:
        return block_flops(network.network, network.sections, sample)
    except RuntimeError:
        return None


def measure_latency(architecture: Architecture, parameters: int, flops: BlockCosts | None) -> InspectedLatency | None:
    """In float32 on the CPU, with random weights. None for a network that is too large."""
    if flops is None or flops.total > MOST_FLOPS or parameters > MOST_PARAMETERS:
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        family = family_of(architecture)
        network = SectionedNetwork(family.build(architecture).eval(), family.layout(architecture))
        measured = latency_costs(network, family.sample(architecture), seconds=SECONDS)
        return InspectedLatency(device="cpu", threads=THREADS, nanoseconds=measured)
    except (MemoryError, RuntimeError):
        # The inspection's memory is limited. What it is for has been read.
        return None
    finally:
        torch.set_num_threads(threads)
