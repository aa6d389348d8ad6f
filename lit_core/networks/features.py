"""The features of a classifier: the input of the layer that puts out its logits.

Where the output is not that of one layer, and in an embedding network, the features are the output itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.networks.modes import in_eval_mode
from lit_core.networks.sections import SectionedNetwork, Trace
from lit_spec import Output

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class FeatureReader:
    """Runs networks and reads their features, (B, features) or with axes for positions after it.

    Each network's last layer is looked for once, before its first forward pass.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self._layers: dict[int, LastLayer | None] = {}

    def run(self, network: SectionedNetwork, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The network's output and its features."""
        with self._reading(network, inputs) as features:
            output = network.run(*inputs)
        return output, self._features(network, features, output)

    def trace(self, network: SectionedNetwork, *inputs: Tensor) -> tuple[Trace, Tensor]:
        """The network's trace and its features."""
        with self._reading(network, inputs) as features:
            traced = network.trace(*inputs)
        return traced, self._features(network, features, traced.output)

    def _features(self, network: SectionedNetwork, inputs_of_layer: list[Tensor], output: Tensor) -> Tensor:
        """Of the inputs that the last layer had in one forward pass, the one that gave the output."""
        layer = self._layers.get(id(network))
        return output if layer is None else inputs_of_layer[-1 - layer.later_calls]

    @contextmanager
    def _reading(self, network: SectionedNetwork, inputs: tuple[Tensor, ...]) -> Iterator[list[Tensor]]:
        """The inputs of the last layer in a forward pass."""
        given: list[Tensor] = []
        if self.output == Output.EMBEDDING:
            yield given
            return
        if id(network) not in self._layers:
            self._layers[id(network)] = last_layer(network, *inputs)

        def save(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            given.append(args[0] if args else named["input"])

        layer = self._layers[id(network)]
        if layer is None:
            yield given
            return
        handle = layer.module.register_forward_pre_hook(save, with_kwargs=True)
        try:
            yield given
        finally:
            handle.remove()


@dataclass(frozen=True)
class LastLayer:
    module: nn.Module
    later_calls: int
    """How often the network runs this layer again after the call that gave its output."""


@torch.no_grad()
def last_layer(network: SectionedNetwork, *inputs: Tensor) -> LastLayer | None:
    """The linear layer or convolution whose output is the network's, if there is one. The network runs once, in eval
    mode, on two samples."""
    outputs: list[tuple[nn.Module, Tensor]] = []

    def save(module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        outputs.append((module, output))

    handles = [module.register_forward_hook(save) for module in network.network.modules() if isinstance(module, LAYERS)]
    try:
        with in_eval_mode(network.network):
            # Few samples, because the outputs of all layers are kept.
            output = network.network(*(x[:2] for x in inputs))
    finally:
        for handle in handles:
            handle.remove()
    later: Counter[nn.Module] = Counter()
    for module, own in reversed(outputs):
        if (
            isinstance(output, Tensor)
            and own.numel() == output.numel()
            # An output that is not finite is equal to itself, too.
            and torch.allclose(own.flatten(), output.flatten(), rtol=0, atol=0, equal_nan=True)
        ):
            return LastLayer(module, later[module])
        later[module] += 1
    return None
