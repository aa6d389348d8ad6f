"""Magnitude pruning: the baseline that keeps the teacher's depth and sets its smallest weights or filters to zero."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lit_core.spec import Pruning

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)
ROUNDING = 1e-9
"""Above what a quotient may lack after it is multiplied again."""
WITH_FILTERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


def prune_to(network: nn.Module, parameters: int, pruning: Pruning = Pruning.WEIGHTS) -> dict[str, Tensor]:
    """Zero the smallest weights or filters until `parameters` are left, and return masks by parameter name.

    Weights go from all layers together (Han et al., NeurIPS 2015), to the very number. Filters go from each layer by
    the same share (Li et al., ICLR 2017), so a few less than `parameters` may be left; the outputs are no filters.
    Biases and normalisations are kept. The masks are to be laid over the weights after every step. Raises ValueError
    when what is kept anyway is more than that.
    """
    kinds = PRUNABLE if pruning == Pruning.WEIGHTS else WITH_FILTERS
    named = {f"{path}.weight": module for path, module in network.named_modules() if isinstance(module, kinds)}
    if pruning == Pruning.FILTERS:
        named.popitem()
    surplus = sum(parameter.numel() for parameter in network.parameters()) - parameters
    if pruning == Pruning.WEIGHTS:
        _prune_weights(named, surplus)
    else:
        _prune_filters(named, surplus)
    masks = {name: module.get_buffer("weight_mask").clone() for name, module in named.items()}
    for module in named.values():
        prune.remove(module, "weight")  # type: ignore[no-untyped-call]
    return masks


def _prune_weights(named: Mapping[str, nn.Module], surplus: int) -> None:
    weights = sum(module.get_parameter("weight").numel() for module in named.values())
    if surplus > weights:
        raise ValueError(f"{surplus} parameters can't go: only {weights} are weights")
    layers = [(module, "weight") for module in named.values()]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=surplus)


def _prune_filters(named: Mapping[str, nn.Module], surplus: int) -> None:
    shapes = [module.get_parameter("weight").shape for module in named.values()]

    def gone(share: float) -> list[int]:
        """Filters of each layer. One is always left, and with it a way through the layer."""
        return [min(int(share * shape[0] + ROUNDING), shape[0] - 1) for shape in shapes]

    def removed(share: float) -> int:
        return sum(count * shape[1:].numel() for count, shape in zip(gone(share), shapes, strict=True))

    # Nothing changes between these.
    shares = sorted({count / shape[0] for shape in shapes for count in range(shape[0] + 1)})
    place = bisect_right(shares, surplus - 1, key=removed)
    if place == len(shares):
        raise ValueError(f"{surplus} parameters can't go: a filter of each layer stays")
    for module, count in zip(named.values(), gone(shares[place]), strict=True):
        prune.ln_structured(module, "weight", amount=count, n=1, dim=0)  # type: ignore[no-untyped-call]


@torch.no_grad()
def lay_over(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set what is pruned to zero again."""
    for name, mask in masks.items():
        network.get_parameter(name).mul_(mask)
