"""Magnitude pruning: of a teacher, as the baseline that keeps its depth, and of a student that LIT has trained."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lit_core.measure import count_parameters
from lit_core.sections import SectionedNetwork
from lit_core.spec import Pruning

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding, nn.MultiheadAttention)
ROUNDING = 1e-9
"""Above what a quotient may lack after it is multiplied again."""
WITH_FILTERS = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)

Named = Mapping[str, tuple[nn.Module, str]]
"""Weights by their paths, each as its module and its name there."""


def prune_to(
    network: nn.Module, parameters: int, pruning: Pruning = Pruning.WEIGHTS, outputs: Collection[str] = ()
) -> dict[str, Tensor]:
    """Zero the smallest weights or filters until `parameters` are left, and return masks by parameter name.

    Weights go from all layers together (Han et al., NeurIPS 2015), to the very number. Filters go from each layer by
    the same share (Li et al., ICLR 2017), so a few less than `parameters` may be left; `outputs` name weights that
    have no filters to lose, as their rows are the network's outputs. Biases and normalisations are kept. The masks are
    to be laid over the weights after every step. Raises ValueError when what is kept anyway is more than that.
    """
    named = _prunable(network, pruning, outputs)
    surplus = count_parameters(network) - parameters
    if pruning == Pruning.FILTERS:
        _prune_filters(named, _share_for(named, surplus))
        return _masks(named)
    if surplus > (most := _weights(named)):
        raise ValueError(f"{surplus} parameters can't go: only {most} are weights")
    _prune_weights(named, surplus)
    return _masks(named)


def prune_by(
    network: nn.Module, share: float, pruning: Pruning = Pruning.WEIGHTS, outputs: Collection[str] = ()
) -> dict[str, Tensor]:
    """As `prune_to`, with a share, from 0 to 1, of the weights or of each layer's filters gone. One filter always
    stays."""
    named = _prunable(network, pruning, outputs)
    if pruning == Pruning.FILTERS:
        _prune_filters(named, share)
    else:
        _prune_weights(named, round(share * _weights(named)))
    return _masks(named)


def parameters_left(network: nn.Module) -> int:
    """How many parameters a pruned network has: all but the weights that are zero."""
    named = _prunable(network, Pruning.WEIGHTS)
    return count_parameters(network) - sum(int((_weight(*place) == 0).sum()) for place in named.values())


def outputs_of(network: SectionedNetwork, classes: int) -> list[str]:
    """Weights of the head's layers that put out one number for each class: of its last layer, or of several heads'."""
    modules = [(path, one) for path in network.layout.head if isinstance(one := network.at(path), nn.Module)]
    layers = [(path, name, layer) for path, module in modules for name, layer in module.named_modules()]
    return [
        ".".join(filter(None, (path, name, "weight")))
        for path, name, layer in layers
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) and len(layer.weight) == classes
    ]


def check_prunable(network: nn.Module, pruning: Pruning, outputs: Collection[str]) -> None:
    """Raises ValueError for a network that has nothing to prune."""
    if not _prunable(network, pruning, outputs):
        raise ValueError(
            f"then prunes {pruning}, but the model has no layer that could lose some: convolutions, linear layers, "
            "embeddings and attention can, where their weights are parameters of their own"
        )


def _prunable(network: nn.Module, pruning: Pruning, outputs: Collection[str] = ()) -> Named:
    """Each tensor once, though several layers may have it."""
    kinds = PRUNABLE if pruning == Pruning.WEIGHTS else WITH_FILTERS
    spared = outputs if pruning == Pruning.FILTERS else ()
    named: dict[str, tuple[nn.Module, str]] = {}
    seen: set[int] = set()
    for path, module in network.named_modules():
        name = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
        place = f"{path}.{name}" if path else name
        if place in spared or not isinstance(module, kinds):
            continue
        # Of a parametrised layer the weight is computed anew from others.
        weight = module._parameters.get(name)
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            named[place] = (module, name)
    return named


def _weight(module: nn.Module, name: str) -> Tensor:
    return module.get_parameter(name)


def _weights(named: Named) -> int:
    return sum(_weight(*place).numel() for place in named.values())


def _masks(named: Named) -> dict[str, Tensor]:
    masks = {path: module.get_buffer(f"{name}_mask").clone() for path, (module, name) in named.items()}
    for module, name in named.values():
        prune.remove(module, name)  # type: ignore[no-untyped-call]
    return masks


def _prune_weights(named: Named, surplus: int) -> None:
    prune.global_unstructured(list(named.values()), pruning_method=prune.L1Unstructured, amount=surplus)


def _prune_filters(named: Named, share: float) -> None:
    for (module, name), count in zip(named.values(), _gone(_shapes(named), share), strict=True):
        prune.ln_structured(module, name, amount=count, n=1, dim=0)  # type: ignore[no-untyped-call]


def _share_for(named: Named, surplus: int) -> float:
    """The least share of each layer's filters with which so many parameters go. Raises ValueError."""
    shapes = _shapes(named)

    def removed(share: float) -> int:
        return sum(count * shape[1:].numel() for count, shape in zip(_gone(shapes, share), shapes, strict=True))

    # Nothing changes between these.
    shares = sorted({count / shape[0] for shape in shapes for count in range(shape[0] + 1)})
    place = bisect_right(shares, surplus - 1, key=removed)
    if place == len(shares):
        raise ValueError(f"{surplus} parameters can't go: a filter of each layer stays")
    return shares[place]


def _shapes(named: Named) -> list[torch.Size]:
    return [_weight(*place).shape for place in named.values()]


def _gone(shapes: Sequence[torch.Size], share: float) -> list[int]:
    """Filters of each layer. One is always left, and with it a way through the layer."""
    return [min(int(share * shape[0] + ROUNDING), shape[0] - 1) for shape in shapes]


@torch.no_grad()
def lay_over(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set what is pruned to zero again."""
    for name, mask in masks.items():
        network.get_parameter(name).mul_(mask)
