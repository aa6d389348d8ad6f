"""Magnitude pruning: the baseline that keeps the teacher's depth and sets its smallest weights to zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


def prune_to(network: nn.Module, parameters: int) -> dict[str, Tensor]:
    """Zero the smallest weights of all layers together until `parameters` are left, and return masks by parameter name.

    Biases and normalisations are kept (Han et al., NeurIPS 2015; global, unstructured, by magnitude). The masks are
    to be laid over the weights after every step. Raises ValueError when what is kept anyway is more than that.
    """
    named = {f"{path}.weight": module for path, module in network.named_modules() if isinstance(module, PRUNABLE)}
    total = sum(parameter.numel() for parameter in network.parameters())
    weights = sum(module.weight.numel() for module in named.values())
    surplus = total - parameters
    if surplus > weights:
        raise ValueError(f"{parameters} parameters can't be reached: {total - weights} of them are never pruned")
    layers = [(module, "weight") for module in named.values()]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=surplus)
    masks = {name: module.get_buffer("weight_mask").clone() for name, module in named.items()}
    for module, name in layers:
        prune.remove(module, name)  # type: ignore[no-untyped-call]
    return masks


@torch.no_grad()
def lay_over(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set what is pruned to zero again."""
    for name, mask in masks.items():
        network.get_parameter(name).mul_(mask)
