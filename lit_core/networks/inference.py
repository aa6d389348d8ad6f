"""A frozen network as a program for inference: the same trace and the same output, for less work.

The program is a copy that shares the weights that it does not change. The network that is measured and exported stays
as it is.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lit_core.networks.layout import NoSections
from lit_core.networks.sections import SectionedNetwork, Trace
from lit_core.networks.sharding import is_sharded
from lit_core.networks.watching import watch
from lit_core.seeding import seeded

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TOLERANCE = 1e-3
"""Largest relative difference of a folded network's tensors. Rounding gives about 1e-6; a BatchNorm that was folded
although something else reads the convolution's output gives about 1."""

Fold = tuple[str, str]
"""The paths of a convolution, and of the BatchNorm that alone gets its output."""


def inference_copy(network: SectionedNetwork, inputs: tuple[Tensor, ...]) -> SectionedNetwork:
    """The frozen network with each BatchNorm folded into the convolution before it, where that is safe; the network
    itself where there is nothing to fold. Traces are equal within rounding.

    `inputs` give shapes, types and the device: what is folded does not depend on their values. A network that is
    sharded over processes stays as it is.
    """
    if is_sharded(network):
        return network
    probe = probe_like(inputs)
    folds = _folds(network, probe)
    if not folds:
        return network
    folded = _shared_copy(network)
    _fold(folded.network, folds, memory_format_of(inputs[0]))
    return folded if _is_equal(network, folded, probe) else network


def in_half_precision(network: SectionedNetwork) -> SectionedNetwork:
    """A copy whose convolutions and linear layers hold their weights in bfloat16, for use under autocast, which would
    otherwise convert them in each pass. A network that is sharded over processes stays as it is, so autocast converts
    what a block has gathered."""
    if is_sharded(network):
        return network
    half = _shared_copy(network)
    for module in half.network.modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and not _has_hooks(module):
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter.dtype == torch.float32:
                    module._parameters[name] = nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)
    return half


def probe_like(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Two samples with the inputs' shapes, types and memory formats: noise, or zeros where the inputs are not
    floating-point."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn((2, *x.shape[1:]), generator=generator).to(x).contiguous(memory_format=memory_format_of(x))
        if x.is_floating_point()
        else x.new_zeros((2, *x.shape[1:]))
        for x in inputs
    )


def memory_format_of(images: Tensor) -> torch.memory_format:
    last = images.ndim == 4 and not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def are_close(ones: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    """Whether the tensors differ only by rounding. One that is not finite is close to nothing."""
    return all(
        one.shape == other.shape and bool((one - other).norm() <= TOLERANCE * other.norm())
        for one, other in zip(ones, others, strict=True)
    )


def tensors_of(trace: Trace) -> list[Tensor]:
    return [*trace.inputs, *trace.outputs, trace.output]


def _folds(network: SectionedNetwork, probe: tuple[Tensor, ...]) -> list[Fold]:
    """By watching a forward pass: a BatchNorm that is called once, exactly on the output of a convolution that is
    called once."""
    modules = dict(network.network.named_modules())
    norms = {path: module for path, module in modules.items() if _is_foldable_norm(module)}
    if not norms:
        return []
    try:
        with seeded(0):
            calls = watch(network.network, probe).calls
    except NoSections:
        return []
    convolutions = {
        id(call.returned.tensor): path
        for path, call in calls.items()
        if type(modules[path]) in CONVOLUTIONS and not _has_hooks(modules[path])
    }
    folds = []
    for path in norms.keys() & calls.keys():
        before = convolutions.get(id(calls[path].given.tensor))
        if before is not None and calls[path].follows(calls[before]):
            folds.append((before, path))
    taken = Counter(convolution for convolution, _ in folds)
    return [(convolution, norm) for convolution, norm in folds if taken[convolution] == 1]


def _is_foldable_norm(module: nn.Module) -> bool:
    return (
        isinstance(module, BATCH_NORMS)
        and type(module) in BATCH_NORMS
        and module.running_mean is not None
        and module.running_var is not None
        and not module.training
        and not _has_hooks(module)
    )


def _has_hooks(module: nn.Module) -> bool:
    """Also those of the old weight_norm and spectral_norm, which set the weight before each pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _shared_copy(network: SectionedNetwork) -> SectionedNetwork:
    """A copy of the modules, with the network's own parameters and buffers."""
    tensors = chain(network.network.parameters(), network.network.buffers())
    copied = copy.deepcopy(network.network, {id(tensor): tensor for tensor in tensors})
    return SectionedNetwork(copied, network.layout, network.kept_blocks)


def _fold(network: nn.Module, folds: Iterable[Fold], memory_format: torch.memory_format) -> None:
    norms: set[nn.Module] = set()
    for convolution_path, norm_path in folds:
        convolution, norm = network.get_submodule(convolution_path), network.get_submodule(norm_path)
        if isinstance(convolution, _ConvNd) and isinstance(norm, _BatchNorm):
            _fold_one(convolution, norm)
            if isinstance(convolution, nn.Conv2d):
                # Otherwise each pass would convert it.
                convolution.weight.data = convolution.weight.data.contiguous(memory_format=memory_format)
            norms.add(norm)
    # A module may be registered under several names.
    for module in list(network.modules()):
        for name, child in module._modules.items():
            if child in norms:
                module._modules[name] = nn.Identity()


def _fold_one(convolution: _ConvNd, norm: _BatchNorm) -> None:
    """Put the BatchNorm's scale and shift into the convolution. In float64, so that only the result is rounded."""
    dtype = convolution.weight.dtype
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a BatchNorm without running statistics can't be folded")
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.double(),
        _double(convolution.bias),
        mean.double(),
        variance.double(),
        norm.eps,
        _double(norm.weight),
        _double(norm.bias),
    )
    convolution.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    convolution.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


@torch.no_grad()
def _is_equal(network: SectionedNetwork, folded: SectionedNetwork, probe: tuple[Tensor, ...]) -> bool:
    try:
        with seeded(0):
            wanted = network.trace(*probe)
        with seeded(0):
            found = folded.trace(*probe)
    except (AttributeError, NoSections, RuntimeError):
        # A network that reads the weights of its own BatchNorm, or takes other ways through itself.
        return False
    return are_close(tensors_of(found), tensors_of(wanted))
