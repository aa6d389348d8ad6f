"""Magnitude pruning: of a teacher, as a baseline that keeps its depth, and of a trained student."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lit_core.measuring.cost import count_parameters
from lit_core.networks.sections import SectionedNetwork
from lit_spec import Part, Pruning, SpecError

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding, nn.MultiheadAttention)
ROUNDING = 1e-9
"""Added before rounding down: more than the rounding error of (a / b) * b."""
WITH_FILTERS = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)

Named = Mapping[str, tuple[nn.Module, str]]
"""By a weight's path: its module and its name in the module."""


def prune_to(
    network: nn.Module, parameters: int, pruning: Pruning = Pruning.WEIGHTS, spared: Collection[Tensor] = ()
) -> dict[str, Tensor]:
    """Zero the smallest weights or filters until `parameters` are left, and return masks by parameter name.

    Weights are removed over all layers together (Han et al., NeurIPS 2015), to exactly this number. Filters are removed
    from each layer by the same share (Li et al., ICLR 2017), so a few less than `parameters` may be left. Biases,
    normalisations and tensors in `spared` stay. Apply the masks to the weights after every step. Raises SpecError if
    so many parameters can't be removed.
    """
    named = _prunable(network, pruning, spared)
    surplus = count_parameters(network) - parameters
    if pruning == Pruning.FILTERS:
        _prune_filters(named, _share_for(named, surplus))
        return _masks(named)
    if surplus > (most := _weights(named)):
        raise SpecError(
            "student",
            f"is so small that {surplus} of the teacher's weights would have to be pruned, but only {most} can be: ask "
            "for a larger student",
        )
    _prune_weights(named, surplus)
    return _masks(named)


def prune_by(
    network: nn.Module, share: float, pruning: Pruning = Pruning.WEIGHTS, spared: Collection[Tensor] = ()
) -> dict[str, Tensor]:
    """As `prune_to`, but remove a share (0 to 1) of the weights or of each layer's filters. One filter per layer always
    stays."""
    named = _prunable(network, pruning, spared)
    if pruning == Pruning.FILTERS:
        _prune_filters(named, share)
    else:
        _prune_weights(named, round(share * _weights(named)))
    return _masks(named)


def parameters_left(network: nn.Module) -> int:
    """The number of parameters of a pruned network, without weights that are zero."""
    named = _prunable(network, Pruning.WEIGHTS)
    return count_parameters(network) - sum(int((_weight(*place) == 0).sum()) for place in named.values())


def spared_of(network: SectionedNetwork, pruning: Pruning, classes: int) -> list[Tensor]:
    """The parameters that pruning must not change: fixed parameters, and filters that are the network's outputs.

    Fixed parameters can't adapt when others are removed. The outputs' filters are the rows of the head's layers with
    one row per class, or of all layers of the head if no layer has one row per class.
    """
    fixed: list[Tensor] = [parameter for parameter in network.network.parameters() if not network.learns(parameter)]
    if pruning == Pruning.WEIGHTS:
        return fixed
    layers = [
        layer.weight
        for one in network.part(Part.HEAD)
        if isinstance(one, nn.Module)
        for layer in one.modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    ]
    return [*fixed, *([weight for weight in layers if len(weight) == classes] or layers)]


def check_prunable(network: nn.Module, pruning: Pruning, spared: Collection[Tensor]) -> None:
    """Raises SpecError if the network has nothing to prune."""
    if not _prunable(network, pruning, spared):
        raise SpecError(
            "then",
            f"prunes {pruning}, but the model has no layer to prune: leave it out (only convolutions, linear layers, "
            "embeddings and attention whose weights are plain parameters that require gradients can be pruned)",
        )


def _prunable(network: nn.Module, pruning: Pruning, spared: Collection[Tensor] = ()) -> Named:
    """Each tensor once, although several layers may share it."""
    kinds = PRUNABLE if pruning == Pruning.WEIGHTS else WITH_FILTERS
    named: dict[str, tuple[nn.Module, str]] = {}
    seen = {id(tensor) for tensor in spared}
    for path, module in network.named_modules():
        name = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
        # The weight of a parametrised layer is computed from other tensors.
        weight = module._parameters.get(name)
        if isinstance(module, kinds) and weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            named[f"{path}.{name}" if path else name] = (module, name)
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
    """The smallest share of each layer's filters that removes this many parameters. Raises SpecError."""
    shapes = _shapes(named)

    def removed(share: float) -> int:
        return sum(count * shape[1:].numel() for count, shape in zip(_gone(shapes, share), shapes, strict=True))

    # The result changes only at these shares.
    shares = sorted({count / shape[0] for shape in shapes for count in range(shape[0] + 1)})
    place = bisect_right(shares, surplus - 1, key=removed)
    if place == len(shares):
        most = removed(1.0)
        raise SpecError(
            "pruning",
            f"is filters, and {surplus} of the teacher's parameters would have to be pruned, but one filter of each "
            f"layer must stay, so only {most} can be: use weights, or ask for a larger student",
        )
    return shares[place]


def _shapes(named: Named) -> list[torch.Size]:
    return [_weight(*place).shape for place in named.values()]


def _gone(shapes: Sequence[torch.Size], share: float) -> list[int]:
    """Number of removed filters of each layer. One always stays, so that the layer still passes something on."""
    return [min(int(share * shape[0] + ROUNDING), shape[0] - 1) for shape in shapes]


@torch.no_grad()
def apply_masks(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set the pruned weights to zero again."""
    for name, mask in masks.items():
        network.get_parameter(name).mul_(mask)
