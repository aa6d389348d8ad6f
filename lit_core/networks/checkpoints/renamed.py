"""Tensors of a library's network whose head was replaced, or that have other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lit_core.networks.families.library import IN_PYTHON, USUAL_CLASSES
from lit_core.networks.families.shapes import Unrecognised, listed

SHOWN_PAIRS = 3
PARTS = ("weight", "bias")
HEADS = ("head", "heads", "fc", "classifier", "linear", "last_linear", "output", "logits", "fc_out")
"""What a head is usually called."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Renamed:
    tensors: dict[str, Tensor]
    steps: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    """Names of tensors beside the network's that belong to it."""


def with_own_names(
    network: nn.Module, tensors: Mapping[str, Tensor], beside: Mapping[str, Tensor], what: str, *, by_order: bool
) -> Renamed:
    """The tensors named as in the network: those of a single linear layer in the place of its head, which may also be
    `beside` them, and, with `by_order`, all of them if they match one for one in order and shape.

    Raises Unrecognised where only the head differs, and where they match but `by_order` is not given; `what` is the
    network's name. Other tensors are returned as they are.
    """
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not _is_counter(name)}
    given = {name: tensor for name, tensor in tensors.items() if not _is_counter(name)}
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    if not missing:
        return Renamed(dict(tensors))
    head, classes = _head(network), getattr(network, "num_classes", USUAL_CLASSES)
    if head is not None and set(missing) <= {f"{head}.weight", f"{head}.bias"}:
        return _with_head(network, tensors, beside, head, unexpected, what)
    # All of them in their order, because a name may be there and mean another layer, as where blocks count from 1.
    if _match_in_order(
        [tuple(tensor.shape) for tensor in wanted.values()], [tuple(tensor.shape) for tensor in given.values()], classes
    ):
        pairs = dict(zip(given, wanted, strict=True))
        differ = [name for name in given if pairs[name] != name]
        shown = listed([f"{name} as {pairs[name]}" for name in differ[:SHOWN_PAIRS]])
        if by_order:
            plain = {pairs[name]: tensor for name, tensor in given.items()}
            return Renamed(plain, [f"{len(differ)} tensors renamed in their order: {shown}, …"])
        raise Unrecognised(
            f"has tensors that match those of {what} one for one in order and shape, but {len(differ)} have other "
            f"names ({shown}, …): if they are the same layers, give by_order as architecture.rename",
            len(differ),
        )
    return Renamed(dict(tensors))


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _head(network: nn.Module) -> str | None:
    """The path of the last linear layer."""
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _with_head(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    beside: Mapping[str, Tensor],
    head: str,
    unexpected: list[str],
    what: str,
) -> Renamed:
    weight, bias = f"{head}.weight", f"{head}.bias"
    features = network.get_parameter(weight).shape[1]
    made = Renamed(dict(tensors))
    if weight not in tensors:
        layer = _linear_layer({name: tensors[name] for name in unexpected}, features, head)
        if layer is None and unexpected:
            raise Unrecognised(
                f"is {what}, but for its head: {listed(unexpected)} are in the place of {head}, where the library "
                f"has a single linear layer of {features} inputs; {IN_PYTHON}",
                1,
            )
        if layer is None:
            layer = _linear_layer(_of_heads(beside, head), features, head)
            made.taken.update(f"{layer}.{part}" for part in PARTS)
        if layer is None:
            raise Unrecognised(
                f"is {what} without its head, because {listed([weight, bias])} are missing: give a checkpoint of the "
                "whole classifier",
                1,
            )
        for part in PARTS:
            found = made.tensors.pop(f"{layer}.{part}", beside.get(f"{layer}.{part}"))
            if found is not None:
                made.tensors[f"{head}.{part}"] = found
        made.steps.append(f"the linear layer {layer} taken as the head {head}")
    if bias not in made.tensors and bias in network.state_dict() and made.tensors[weight].ndim == 2:
        made.tensors[bias] = torch.zeros(len(made.tensors[weight]), dtype=made.tensors[weight].dtype)
        made.steps.append(f"the head {head} has no bias: zeros added")
    return made


def _of_heads(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if _is_named(name.rpartition(".")[0], head)}


def _is_named(layer: str, head: str) -> bool:
    """Whether a layer is called as heads are."""
    return not {*HEADS, head.partition(".")[0]}.isdisjoint(layer.split("."))


def _linear_layer(tensors: Mapping[str, Tensor], features: int, head: str) -> str | None:
    """The path of the layer, if the tensors are those of one with so many inputs, and named as a head."""
    layers = {name.rpartition(".")[0] for name in tensors}
    parts = {name.rpartition(".")[2] for name in tensors}
    if len(layers) != 1 or not parts <= set(PARTS):
        return None
    [layer] = layers
    weight = tensors.get(f"{layer}.weight")
    fits = weight is not None and weight.ndim == 2 and weight.shape[1] == features
    return layer if fits and _is_named(layer, head) else None


def _match_in_order(wanted: Sequence[Shape], given: Sequence[Shape], classes: int) -> bool:
    """Shapes match in spite of another number of classes."""

    def is_one(own: Shape, other: Shape) -> bool:
        return own == other or (own[:1] == (classes,) and own[1:] == other[1:])

    return len(wanted) == len(given) and all(map(is_one, wanted, given))
