"""Linear maps around the gap that a dropped block leaves, as PRACTISE (Wang and Wu, CVPR 2023) trains them.

An adaptor is a 1x1 convolution without a bias, or a linear layer for representations (B, L, D). It stands directly
before or after a layer of the network, so it is the same as a factor of that layer's weight: zero padding and 1x1
convolutions commute. It is trained as this factor, and folding it costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from lit_core.networks.sections import SectionedNetwork

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Gap:
    """Where a block is missing."""

    section: int
    place: int
    """The number of the student's blocks in this section that come before the gap."""


class Adaptors:
    """Adaptors at the layers of a network, each the identity at first."""

    def __init__(self) -> None:
        self._before: dict[nn.Module, _Before] = {}
        self._after: dict[nn.Module, _After] = {}

    def __len__(self) -> int:
        return len(self._before) + len(self._after)

    def parameters(self) -> list[nn.Parameter]:
        adaptors: list[_Adaptor] = [*self._before.values(), *self._after.values()]
        return [adaptor.matrix for adaptor in adaptors]

    def add_before(self, layer: nn.Module) -> None:
        if layer not in self._before:
            self._before[layer] = _Before(_weight(layer))
            register_parametrization(layer, "weight", self._before[layer])

    def add_after(self, layer: nn.Module) -> None:
        if layer in self._after:
            return
        self._after[layer] = adaptor = _After(_weight(layer))
        register_parametrization(layer, "weight", adaptor)
        if layer.bias is not None:
            register_parametrization(layer, "bias", adaptor)

    def fold(self) -> None:
        """Multiply the adaptors into the weights. The network is then as it was without them, with other weights."""
        for layer in {**self._before, **self._after}:
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                remove_parametrizations(layer, name, leave_parametrized=True)
        self._before, self._after = {}, {}


def adaptors_around(student: SectionedNetwork, gaps: Iterable[Gap], inputs: tuple[Tensor, ...]) -> Adaptors:
    """Put adaptors around the gaps, at the places where PRACTISE's code has them.

    That is after each layer by which a block before the gap, in the same section, adds to the representation, and
    before each layer that reads the representation in a block after the gap, or directly behind the section. Grouped
    convolutions have none, because it could not be folded. The layers are found by one forward pass of `inputs`.
    """
    adaptors = Adaptors()
    for gap in gaps:
        *blocks, behind = _ends_of_blocks(student, gap.section, inputs)
        for ends in blocks[: gap.place]:
            for layer in ends.writers:
                adaptors.add_after(layer)
        for ends in (*blocks[gap.place :], behind):
            for layer in ends.readers:
                adaptors.add_before(layer)
    return adaptors


class _Adaptor(nn.Module):
    def __init__(self, width: int, weight: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(width, dtype=weight.dtype, device=weight.device))


class _Before(_Adaptor):
    """The factor of the weight (out, in, …) of a layer that is run on the adaptor's output."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[1], weight)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.einsum("oi...,ij->oj...", weight, self.matrix)


class _After(_Adaptor):
    """The factor of the weight (out, in, …), and of the bias (out,), of a layer whose output the adaptor is run on."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[0], weight)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.einsum("po,o...->p...", self.matrix, weight)


@dataclass
class _Ends:
    """The layers at the two ends of a block that can have an adaptor."""

    readers: list[nn.Module] = field(default_factory=list)
    """They get the block's input through no other layer."""
    writers: list[nn.Module] = field(default_factory=list)
    """Their output reaches the block's output through no other layer."""


@dataclass(frozen=True)
class _LayerCall:
    module: nn.Module
    given: Tensor
    returned: Tensor


@dataclass
class _Region:
    """A block, or what is run behind the last block of a section."""

    entered: Tensor
    calls: list[_LayerCall] = field(default_factory=list)
    left: Tensor | None = None


def _ends_of_blocks(student: SectionedNetwork, section: int, inputs: tuple[Tensor, ...]) -> list[_Ends]:
    """Of each block of a section, and of what is run behind it."""
    return [_ends(region) for region in _regions(student, student.sections[section], inputs)]


@torch.enable_grad()
def _regions(student: SectionedNetwork, section: nn.Sequential, inputs: tuple[Tensor, ...]) -> list[_Region]:
    regions: list[_Region] = []

    def enter(tensor: Tensor) -> Tensor:
        """Cut the graph, so that a gradient says what depends on this representation."""
        regions.append(_Region(tensor.detach().requires_grad_()))
        # A copy, because the network may change it in place.
        return regions[-1].entered.clone()

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (enter(args[0]), *args[1:])

    def after(module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        regions[-1].left = output
        return enter(output) if module is section[-1] else output

    def called(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if regions and args and isinstance(args[0], Tensor) and isinstance(first, Tensor):
            regions[-1].calls.append(_LayerCall(module, args[0], first))

    handles = [module.register_forward_hook(called) for module in student.network.modules() if _is_layer(module)]
    for block in section:
        handles += [block.register_forward_pre_hook(before), block.register_forward_hook(after)]
    try:
        student.network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return regions


def _ends(region: _Region) -> _Ends:
    calls = [call for call in region.calls if not _is_pooled(call.given) or _is_pooled(region.entered)]
    modules = [call.module for call in calls]
    ends, followed = _Ends(), set[int]()
    for place, call in enumerate(calls):
        from_block, *from_layers = _reached(call.given, [region.entered, *(one.returned for one in calls[:place])])
        followed |= {earlier for earlier, reached in enumerate(from_layers) if reached}
        if from_block and not any(from_layers):
            ends.readers.append(call.module)
    if region.left is not None:
        written = _reached(region.left, [call.returned for call in calls])
        ends.writers += [modules[place] for place, reached in enumerate(written) if reached and place not in followed]
    for layers in (ends.readers, ends.writers):
        # A layer that is run twice is two places of the network with one weight.
        layers[:] = [layer for layer in layers if _can_have_an_adaptor(layer) and modules.count(layer) == 1]
    return ends


def _reached(tensor: Tensor, sources: Sequence[Tensor]) -> list[bool]:
    """Which of the sources the tensor depends on."""
    if not tensor.requires_grad or not sources:
        return [False] * len(sources)
    learning = [source for source in sources if source.requires_grad]
    gradients = torch.autograd.grad(tensor.sum(), learning, retain_graph=True, allow_unused=True)
    found = {id(source) for source, gradient in zip(learning, gradients, strict=True) if gradient is not None}
    return [id(source) in found for source in sources]


def _is_layer(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))


def _can_have_an_adaptor(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and layer.groups == 1)


def _is_pooled(tensor: Tensor) -> bool:
    """Whether it has a single position, as the vector by which squeeze and excitation weighs the channels."""
    if tensor.ndim == 3:
        return tensor.shape[1] == 1
    return math.prod(tensor.shape[2:]) == 1


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    return weight
