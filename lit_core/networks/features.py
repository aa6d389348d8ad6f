"""The features of a classifier: the input of the layer that puts out its logits.

Where the output is not that of one layer, and in an embedding network, the features are the output itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.networks.sections import SectionedNetwork, Trace
from lit_spec import Output

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class FeatureReader:
    """Runs networks and reads their features, (B, features) or with axes for positions after it.

    Each network's last layer is looked for once, in its first forward pass.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self._layers: dict[int, nn.Module | None] = {}

    def run(self, network: SectionedNetwork, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The network's output and its features."""
        with self._reading(network, inputs) as features:
            output = network.run(*inputs)
        return output, features[0] if features else output

    def trace(self, network: SectionedNetwork, *inputs: Tensor) -> tuple[Trace, Tensor]:
        """The network's trace and its features."""
        with self._reading(network, inputs) as features:
            traced = network.trace(*inputs)
        return traced, features[0] if features else traced.output

    @contextmanager
    def _reading(self, network: SectionedNetwork, inputs: tuple[Tensor, ...]) -> Iterator[list[Tensor]]:
        features: list[Tensor] = []
        if self.output == Output.EMBEDDING:
            yield features
            return
        if id(network) not in self._layers:
            self._layers[id(network)] = last_layer(network, *inputs)

        def save(_module: nn.Module, args: tuple[Any, ...]) -> None:
            features.append(args[0])

        layer = self._layers[id(network)]
        if layer is None:
            yield features
            return
        handle = layer.register_forward_pre_hook(save)
        try:
            yield features
        finally:
            handle.remove()


@torch.no_grad()
def last_layer(network: SectionedNetwork, *inputs: Tensor) -> nn.Module | None:
    """The linear layer or convolution whose output is the network's, if there is one. The network runs once, in eval
    mode."""
    outputs: list[tuple[nn.Module, Tensor]] = []

    def save(module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        outputs.append((module, output))

    modes = {module: module.training for module in network.network.modules()}
    handles = [module.register_forward_hook(save) for module in network.network.modules() if isinstance(module, LAYERS)]
    network.network.eval()
    try:
        output = network.network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    for module, own in reversed(outputs):
        if (
            isinstance(output, Tensor)
            and own.numel() == output.numel()
            and torch.equal(own.flatten(), output.flatten())
        ):
            return module
    return None
