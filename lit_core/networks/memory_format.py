"""The memory format of images on their way through a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_core.networks.inference import are_close, probe_like
from lit_core.networks.modes import in_eval_mode
from lit_core.networks.sections import SectionedNetwork
from lit_core.seeding import seeded


def takes_channels_last(network: SectionedNetwork, inputs: tuple[Tensor, ...]) -> bool:
    """Whether the network convolves images in memory format channels_last, and to the same output as in the usual one.

    The convolutions' kernels work on channels last. Given images in this format, a network stays in it, whatever the
    format of its weights. One that calls `view` on its representations refuses it. `inputs` give shapes, types and the
    device: the answer does not depend on their values.
    """
    x = inputs[0]
    kernels = x.device.type == "cpu" or torch.is_autocast_enabled(x.device.type)
    if x.ndim != 4 or x.dtype != torch.float32 or not kernels or not _convolves(network.network):
        return False
    usual = probe_like(inputs)
    try:
        with torch.autocast(x.device.type, enabled=False):
            return are_close([_output(network, in_channels_last(usual))], [_output(network, usual)])
    except RuntimeError:
        return False


def in_channels_last(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs with images (B, C, H, W) in memory format channels_last."""
    return tuple(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs)


def _convolves(network: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in network.modules())


@torch.no_grad()
def _output(network: SectionedNetwork, inputs: tuple[Tensor, ...]) -> Tensor:
    with in_eval_mode(network.network), seeded(0):
        return network.run(*inputs)
