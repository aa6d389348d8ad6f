"""A teacher whose parameters are spread over the processes of a group, for one that does not fit one device."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from lit_core.networks.families import family_of
from lit_core.networks.lazy_loading import load_from_file, unloaded_network
from lit_core.networks.sections import SectionedNetwork
from lit_spec import Architecture, SpecError


def build_sharded_teacher(
    architecture: Architecture, path: Path, device: torch.device, processes: int
) -> SectionedNetwork:
    """As `build_teacher`, on `device` and sharded. Each process reads its own part of each parameter from the inspected
    safetensors file.

    All processes of torch's default group must call this. Raises SpecError for a network that can't be sharded.
    """
    network = unloaded_network(architecture)
    teacher = SectionedNetwork(network, family_of(architecture).layout(architecture))
    if architecture.network is not None:
        teacher.probe_size = architecture.network.size
    teacher.freeze()
    shard(teacher, device, processes)
    load_from_file(network, path, device)
    return teacher


def shard(network: SectionedNetwork, device: torch.device, processes: int) -> None:
    """Keep only this process's part of each parameter, on `device`, by FSDP2 (`fully_shard`).

    Each block gathers its parameters from all processes when it runs, and gives them up afterwards, so at any time the
    parameters of about one block are whole. Buffers, and parameters that are single numbers, are whole in each process.
    All processes of torch's default group must call this, and must then run the network equally often. The network is
    used as before, but its parameters are DTensors, so it can't be copied. Raises SpecError for blocks that share
    parameters.
    """
    blocks = [block for section in network.sections for block in section]
    owners = Counter(id(parameter) for block in blocks for parameter in block.parameters())
    if owners and max(owners.values()) > 1:
        raise SpecError("shard_teacher", "is true, but blocks of this teacher share parameters: leave it out")
    mesh = init_device_mesh(device.type, (processes,))
    # FSDP2 takes none without an axis to divide.
    single = {parameter for parameter in network.network.parameters() if parameter.ndim == 0}
    # The last one has what belongs to no block: the stem and the head.
    for module in (*blocks, network.network):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=single)


def is_sharded(network: SectionedNetwork) -> bool:
    return isinstance(network.network, FSDPModule)
