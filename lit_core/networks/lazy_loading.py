"""Networks that never hold more weights than they keep: what is built has none, and its file is read tensor by tensor.

For teachers that are too large to be held whole: see `lit_core.networks.sharding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_core.networks.families import family_of
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.state_dicts import load_state
from lit_core.networks.surgery import cut
from lit_spec import Architecture, SpecError


def unloaded_network(architecture: Architecture) -> nn.Module:
    """The network with its parameters on the meta device, if possible: building some networks needs their values.

    What a file doesn't have, such as positions that are computed, is on the CPU with its values.
    """
    build: Callable[[], nn.Module] = lambda: family_of(architecture).build(architecture)  # noqa: E731
    try:
        with _parameters_on_meta():
            network = build()
    except (NotImplementedError, RuntimeError, SpecError):
        return build()
    return build() if _lacks_values(network) else network


def shortened_from_file(
    architecture: Architecture, path: Path, kept_blocks: Sequence[Sequence[int]]
) -> SectionedNetwork:
    """As `shortened`, from the inspected safetensors file of a teacher that is not held whole. On the CPU."""
    network = unloaded_network(architecture)
    names = {id(tensor): name for name, tensor in network.state_dict(keep_vars=True).items()}
    layout = cut(network, family_of(architecture).layout(architecture), kept_blocks)
    own = network.state_dict(keep_vars=True)
    load_from_file(network, path, torch.device("cpu"), {name: names[id(tensor)] for name, tensor in own.items()})
    return SectionedNetwork(network, layout, kept_blocks)


def load_from_file(
    network: nn.Module, path: Path, device: torch.device, names: Mapping[str, str] | None = None
) -> None:
    """Replace the network's weights by those of a safetensors file, on `device`. Of a sharded parameter only this
    process's part is read.

    `names` are those in the file by the network's own; None: they are the same.
    """
    loaded: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    with safe_open(path, "pt") as file:
        for name, tensor in network.state_dict(keep_vars=True).items():
            # What modules share, they share afterwards too.
            if id(tensor) not in loaded:
                read = _read(file, name if names is None else names[name], tensor, device)
                loaded[id(tensor)] = nn.Parameter(read, False) if isinstance(tensor, nn.Parameter) else read
            state[name] = loaded[id(tensor)]
    load_state(network, state, assign=True)


def _lacks_values(network: nn.Module) -> bool:
    """Whether a tensor that no file has was made beside a parameter, on the meta device."""
    in_file = network.state_dict()
    buffers = (buffer for name, buffer in network.named_buffers() if name not in in_file)
    attributes = (one for module in network.modules() for one in vars(module).values() if isinstance(one, Tensor))
    return any(tensor.is_meta for tensor in chain(buffers, attributes))


def _read(file: Any, name: str, wanted: Tensor, device: torch.device) -> Tensor:
    if not isinstance(wanted, DTensor):
        whole: Tensor = file.get_tensor(name)
        # A copy, because what is read is a view of the whole file.
        return whole.to(device, copy=True)
    mesh = wanted.device_mesh
    # FSDP2 divides the first axis as torch.chunk does.
    rows, own = -(-wanted.shape[0] // mesh.size()), len(wanted.to_local())
    first = mesh.get_local_rank() * rows
    part: Tensor = file.get_slice(name)[first : first + own] if own else torch.empty(wanted.to_local().shape)
    local = part.to(device, wanted.dtype, copy=True)
    return DTensor.from_local(
        local, mesh, wanted.placements, run_check=False, shape=wanted.shape, stride=wanted.stride()
    )


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters lose their values, and so their memory, as soon as a module gets them. torch's own context for the
    meta device would take the buffers too."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        # One that is there already stays the same object, which modules may share.
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
