"""Tensors of a library's network whose head was replaced, or that have other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lit_core.networks.families.library import IN_PYTHON, USUAL_CLASSES
from lit_core.networks.families.shapes import Unrecognised, listed

SHOWN_PAIRS = 3

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Renamed:
    tensors: dict[str, Tensor]
    steps: list[str] = field(default_factory=list)


def with_own_names(network: nn.Module, tensors: Mapping[str, Tensor], what: str, *, by_order: bool) -> Renamed:
    """The tensors named as in the network: those of a single linear layer in the place of its head and, with
    `by_order`, all of them if they match one for one in order and shape.

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
        return _with_head(network, tensors, head, unexpected, what)
    if _match_in_order(
        [tuple(wanted[name].shape) for name in missing], [tuple(given[name].shape) for name in unexpected], classes
    ):
        pairs = dict(zip(unexpected, missing, strict=True))
        shown = listed([f"{name} as {pairs[name]}" for name in unexpected[:SHOWN_PAIRS]])
        if by_order:
            plain = {pairs.get(name, name): tensor for name, tensor in tensors.items() if not _is_counter(name)}
            return Renamed(plain, [f"{len(pairs)} tensors renamed in their order: {shown}, …"])
        raise Unrecognised(
            f"has tensors that match those of {what} one for one in order and shape, but {len(pairs)} have other "
            f'names ({shown}, …): if they are the same layers, add "rename": "by_order" to the architecture',
            len(pairs),
        )
    return Renamed(dict(tensors))


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _head(network: nn.Module) -> str | None:
    """The path of the last linear layer."""
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _with_head(
    network: nn.Module, tensors: Mapping[str, Tensor], head: str, unexpected: list[str], what: str
) -> Renamed:
    weight, bias = f"{head}.weight", f"{head}.bias"
    features = network.get_parameter(weight).shape[1]
    layers = {name.rpartition(".")[0] for name in unexpected}
    found, steps = dict(tensors), []
    if weight not in tensors:
        if not unexpected:
            raise Unrecognised(
                f"is {what} without its head, because {listed([weight, bias])} are missing: give a checkpoint of the "
                "whole classifier",
                1,
            )
        single = len(layers) == 1 and {name.rpartition(".")[2] for name in unexpected} <= {"weight", "bias"}
        layer = next(iter(layers))
        if not single or f"{layer}.weight" not in tensors or list(tensors[f"{layer}.weight"].shape[1:]) != [features]:
            raise Unrecognised(
                f"is {what}, but for its head: {listed(unexpected)} are in the place of {head}, where the library "
                f"has a single linear layer of {features} inputs; {IN_PYTHON}",
                1,
            )
        for name in unexpected:
            found[f"{head}.{name.rpartition('.')[2]}"] = found.pop(name)
        steps.append(f"the linear layer {layer} taken as the head {head}")
    if bias not in found and bias in network.state_dict() and found[weight].ndim == 2:
        found[bias] = torch.zeros(len(found[weight]), dtype=found[weight].dtype)
        steps.append(f"the head {head} has no bias: zeros added")
    return Renamed(found, steps)


def _match_in_order(wanted: Sequence[Shape], given: Sequence[Shape], classes: int) -> bool:
    """Shapes match in spite of another number of classes."""

    def is_one(own: Shape, other: Shape) -> bool:
        return own == other or (own[:1] == (classes,) and own[1:] == other[1:])

    return len(wanted) == len(given) and all(map(is_one, wanted, given))
