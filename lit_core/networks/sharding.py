"""A teacher whose parameters are spread over the processes of a group, for one that does not fit one device."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from lit_core.networks.sections import SectionedNetwork


def shard(network: SectionedNetwork, device: torch.device, processes: int) -> None:
    """Keep only this process's part of each parameter, on `device`, by FSDP2 (`fully_shard`).

    Each block gathers its parameters from all processes when it runs, and gives them up afterwards, so at any time the
    parameters of about one block are whole. All processes of torch's default group must call this, and must then run
    the network equally often, each on its own samples. The network is used as before, but its parameters are DTensors:
    build students and choose their blocks first.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for section in network.sections:
        for block in section:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # What belongs to no block: the stem and the head.
    fully_shard(network.network, mesh=mesh, reshard_after_forward=True)


def is_sharded(network: SectionedNetwork) -> bool:
    return isinstance(network.network, FSDPModule)
