"""Watching a forward pass: which modules are called, with what, and what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from lit_core.networks.layout import NoSections
from lit_core.networks.modes import in_eval_mode

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class TensorVersion:
    """A tensor at one time. A later layer may change it in place, which gives it another version."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> TensorVersion:
        return cls(tensor, 0 if tensor.is_inference() else tensor._version)

    @property
    def is_current(self) -> bool:
        """Whether the tensor has not been changed since."""
        return self.version == TensorVersion.of(self.tensor).version

    def is_same_as(self, other: TensorVersion) -> bool:
        return self.tensor is other.tensor and self.version == other.version


@dataclass(frozen=True)
class SavedTensor:
    """A tensor of a forward pass, safe from changes in place if it has a copy."""

    version: TensorVersion
    copy: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor, *, copied: bool = True) -> SavedTensor:
        # Tensors of torch's inference mode have no versions.
        return cls(TensorVersion.of(tensor), tensor.clone() if copied or tensor.is_inference() else None)

    @property
    def is_lost(self) -> bool:
        return self.copy is None and not self.version.is_current

    @property
    def value(self) -> Tensor:
        """The network's own tensor, or the copy if a later layer has changed that tensor in place. Raises ValueError
        if it has no copy then."""
        if self.version.is_current:
            return self.version.tensor
        if self.copy is None:
            raise ValueError("the tensor was changed in place after it was saved without a copy")
        return self.copy


def saved(argument: Any, *, copied: bool = True) -> Any:
    """A tensor as it is now; anything else unchanged."""
    return SavedTensor.of(argument, copied=copied) if isinstance(argument, Tensor) else argument


def value_of(argument: Any) -> Any:
    """The tensor that was `saved`; anything else unchanged."""
    return argument.value if isinstance(argument, SavedTensor) else argument


@dataclass(frozen=True)
class Call:
    """The call of a module that is called exactly once."""

    place: int
    """Its number in the order of the calls."""
    given: TensorVersion
    """The representation that it is run on: its first argument."""
    returned: TensorVersion
    arguments: list[Any]
    """All other arguments, flattened; tensors are `saved`."""
    structure: Any
    """How the arguments are nested."""

    @property
    def shape(self) -> torch.Size:
        return self.given.tensor.shape

    @property
    def keeps_shape(self) -> bool:
        given, returned = self.given.tensor, self.returned.tensor
        return given.shape == returned.shape and given.dtype == returned.dtype

    def follows(self, other: Call) -> bool:
        """Whether the input is exactly the output of the other call, with nothing in between."""
        return self.given.is_same_as(other.returned)

    def has_same_arguments(self, other: Call) -> bool:
        """Whether the extra arguments of both are the same tensor objects and equal plain values."""
        return self._has_arguments_like(other, _are_the_same_object)

    def has_equal_arguments(self, other: Call) -> bool:
        """Whether the extra arguments of both are tensors of equal values and equal plain values."""
        return self._has_arguments_like(other, _are_equal)

    def _has_arguments_like(self, other: Call, alike: Callable[[Any, Any], bool]) -> bool:
        return self.structure == other.structure and all(map(alike, self.arguments, other.arguments))


@dataclass(frozen=True)
class ForwardPass:
    calls: dict[str, Call]
    """By module path, of each module that is called exactly once, from tensor to tensor."""
    order: dict[str, int]
    """By module path, when each module was first called."""


def watch(network: nn.Module, inputs: tuple[Tensor, ...]) -> ForwardPass:
    """Run the network once in eval mode. Raises NoSections, and whatever the network raises."""
    calls: dict[str, Call] = {}
    order: dict[str, int] = {}
    entered: dict[str, tuple[TensorVersion, list[Any], Any]] = {}
    called_again: set[str] = set()
    handles = []

    def before(path: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            order.setdefault(path, len(order))
            if args and isinstance(args[0], Tensor):
                _check_not_nested(path, args[0])
                leaves, structure = tree_flatten((args[1:], dict(kwargs)))
                entered[path] = TensorVersion.of(args[0]), [saved(leaf) for leaf in leaves], structure

        return hook

    def after(path: str) -> Any:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            if path in calls:
                called_again.add(path)
            if path in entered and isinstance(output, Tensor):
                given, arguments, structure = entered.pop(path)
                calls[path] = Call(order[path], given, TensorVersion.of(output), arguments, structure)

        return hook

    for path, module in network.named_modules(remove_duplicate=True):
        handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
        handles.append(module.register_forward_hook(after(path)))
    try:
        with in_eval_mode(network), torch.no_grad():
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return ForwardPass({path: call for path, call in calls.items() if path not in called_again}, order)


def _check_not_nested(path: str, given: Tensor) -> None:
    if given.is_nested:
        raise NoSections(
            f"{path} is run on a nested tensor, which has no shape: build nn.TransformerEncoder with "
            "enable_nested_tensor=False"
        )


def _are_the_same_object(one: Any, other: Any) -> bool:
    if isinstance(one, SavedTensor) and isinstance(other, SavedTensor):
        return one.version.is_same_as(other.version)
    return _are_equal(one, other)


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, SavedTensor) and isinstance(other, SavedTensor):
        a, b = one.value, other.value
        return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, 0, 0, equal_nan=True)
    if isinstance(one, PLAIN) and isinstance(other, PLAIN):
        return one == other
    # Other objects, such as a configuration, can't be compared; as a rule they do not depend on a block's number.
    return type(one) is type(other)
