"""A network seen as stem, sections and head, with the inputs and outputs of its sections.

A section is a run of blocks, named by their module paths and watched by hooks, so the network needs no change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from lit_core.networks.layout import Layout
from lit_spec import Part


@dataclass(frozen=True)
class Extra:
    """Arguments of a block beside the representation."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class Section(nn.Sequential):
    """A run of blocks, which are the network's own modules."""

    def forward(self, x: Tensor, extras: Sequence[Extra] = ()) -> Tensor:
        """The blocks in order, each with its `extras` (none at all: with the representation alone)."""
        for block, extra in zip(self, extras or [Extra()] * len(self), strict=True):
            x = block(x, *extra.args, **extra.kwargs)
        return x


@dataclass(frozen=True)
class Trace:
    """One forward pass: the network's output (logits (B, classes) of a classifier) and each section's input and
    output representation (B, C, …)."""

    output: Tensor
    inputs: list[Tensor]
    outputs: list[Tensor]
    extras: list[list[Extra]]
    """Of each block of each section the arguments beside its input: a position embedding, or a mask."""
    is_chain: bool
    """Whether each section runs on the very output of the one before it, with nothing between them."""


@dataclass(frozen=True)
class Moment:
    """A tensor as it was at one time, even if a later layer works in its place."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> Moment:
        return cls(tensor, 0 if tensor.is_inference() else tensor._version)

    @property
    def is_now(self) -> bool:
        """Whether the tensor is still as it was."""
        return self.version == Moment.of(self.tensor).version

    def is_that_of(self, other: Moment) -> bool:
        return self.tensor is other.tensor and self.version == other.version


@dataclass(frozen=True)
class Kept:
    """A tensor that was watched."""

    moment: Moment
    copy: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> Kept:
        return cls(Moment.of(tensor), tensor.clone())

    @property
    def value(self) -> Tensor:
        """The network's own tensor, or a copy where a later layer has worked in its place."""
        return self.moment.tensor if self.moment.is_now else self.copy


class _Enough(Exception):
    """The forward pass has come as far as it was wanted."""


class SectionedNetwork:
    """A network and its layout. The network itself stays an ordinary module."""

    def __init__(self, network: nn.Module, layout: Layout, kept: Sequence[Sequence[int]] | None = None) -> None:
        """`kept` are a student's blocks by their places in its teacher; None: as many as there are."""
        self.network = network
        self.layout = layout
        self.looked_through_with: list[int] | None = None
        """Of a library's network: a size of image that it is known to take, height and width in pixels."""
        self.kept = [list(range(len(paths))) for paths in layout.sections] if kept is None else kept
        self.sections = [Section(*(network.get_submodule(path) for path in paths)) for paths in layout.sections]
        self._learns = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def run(self, *inputs: Tensor) -> Tensor:
        """What the network puts out."""
        return _main(self.network(*inputs))

    def extras_of(self, taught: Trace, section: int) -> list[Extra]:
        """What the teacher's blocks were given beside their inputs, for the blocks of this network's section."""
        return [taught.extras[section][place] for place in self.kept[section]]

    def trace(self, *inputs: Tensor) -> Trace:
        """Run the whole network and keep what enters and leaves each section."""
        given: dict[int, Kept] = {}
        made: dict[int, Kept] = {}
        handles = []
        extras = [[Extra()] * len(section) for section in self.sections]
        for i, section in enumerate(self.sections):
            handles.append(section[0].register_forward_pre_hook(_keep_input(given, i)))
            for place, block in enumerate(section):
                handles.append(block.register_forward_pre_hook(_keep_extra(extras[i], place), with_kwargs=True))
            handles.append(section[-1].register_forward_hook(_keep_output(made, i)))
        try:
            output = self.run(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        entered, left = self._all(given, first=True), self._all(made, first=False)
        is_chain = all(after.moment.is_that_of(before.moment) for after, before in zip(entered[1:], left, strict=False))
        inputs_seen, outputs_seen = ([one.value for one in seen] for seen in (entered, left))
        given_beside = [[Extra(*tree_map(_value, (one.args, one.kwargs))) for one in blocks] for blocks in extras]
        return Trace(output, inputs_seen, outputs_seen, given_beside, is_chain)

    def _all(self, kept: Mapping[int, Kept], *, first: bool) -> list[Kept]:
        """Of each section what its first or last block was seen with. Raises RuntimeError."""
        for i, paths in enumerate(self.layout.sections):
            if i not in kept:
                raise RuntimeError(
                    f"{paths[0 if first else -1]} was not run in a forward pass: a network that leaves blocks out by "
                    "chance, or by what it is given, can't be trained section by section"
                )
        return [kept[i] for i in range(len(self.sections))]

    def outputs_fed(self, fed: Sequence[Tensor | None], *inputs: Tensor) -> list[Tensor]:
        """What leaves each section in a pass in which those with something in `fed` run on that instead."""
        made: dict[int, Kept] = {}
        handles = []
        for i, (section, given) in enumerate(zip(self.sections, fed, strict=True)):
            if given is not None:
                handles.append(section[0].register_forward_pre_hook(_give(given)))
            handles.append(section[-1].register_forward_hook(_keep_output(made, i)))
        try:
            self.network(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        return [one.value for one in self._all(made, first=False)]

    def stem_output(self, *inputs: Tensor) -> Tensor:
        """What enters the first section; nothing after that is run."""
        given: dict[int, Tensor] = {}

        def stop(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            given[0] = args[0]
            raise _Enough

        handle = self.sections[0][0].register_forward_pre_hook(stop)
        try:
            self.network(*inputs)
        except _Enough:
            pass
        finally:
            handle.remove()
        return given[0]

    def part(self, part: Part) -> list[nn.Module | nn.Parameter]:
        if part == Part.SECTIONS:
            return list(self.sections)
        paths = self.layout.stem if part == Part.STEM else self.layout.head
        return [self._at(path) for path in paths]

    def _at(self, path: str) -> nn.Module | nn.Parameter:
        parent, _, name = path.rpartition(".")
        found: nn.Module | nn.Parameter = getattr(self.network.get_submodule(parent), name)
        return found

    def train(self, frozen: list[Part]) -> None:
        """Training mode, except for frozen parts: those are in eval mode and have no gradients. Nor have parameters
        that had none when the network came, such as fixed embeddings."""
        self.network.train()
        if {Part.STEM, Part.HEAD} <= set(frozen):
            # What is left is code of the modules around them, such as functional dropout.
            self.network.eval()
            for section in self.sections:
                section.train()
        self.freeze_parameters()
        for parameter in self._learns:
            parameter.requires_grad_(True)
        for part in frozen:
            for one in self.part(part):
                one.requires_grad_(False)
                if isinstance(one, nn.Module):
                    one.eval()

    def freeze(self) -> None:
        """Eval mode without gradients, as the teacher always is."""
        self.network.eval()
        self.freeze_parameters()

    def freeze_parameters(self) -> None:
        self.network.requires_grad_(False)

    def learns(self, tensor: Tensor) -> bool:
        """Whether it is a parameter that had gradients when the network came."""
        return any(tensor is parameter for parameter in self._learns)

    def copy_of_network(self) -> nn.Module:
        """With weights of its own, of which those have gradients that had some when the network came."""
        copied = copy.deepcopy(self.network)
        learn = set(map(id, self._learns))
        for parameter, own in zip(copied.parameters(), self.network.parameters(), strict=True):
            parameter.requires_grad_(id(own) in learn)
        return copied


def _main(output: Any) -> Tensor:
    """Some networks (GoogLeNet, Inception) put out what their auxiliary heads say as well while they are trained; the
    main head comes first."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def kept_of(argument: Any) -> Any:
    """A tensor as it is now; other things as they are."""
    return Kept.of(argument) if isinstance(argument, Tensor) else argument


def _value(argument: Any) -> Any:
    return argument.value if isinstance(argument, Kept) else argument


def _give(given: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # A copy: the section may work in its place.
        return (given.clone(), *args[1:])

    return hook


def _keep_extra(kept: list[Extra], place: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept[place] = Extra(*tree_map(kept_of, (args[1:], dict(kwargs))))

    return hook


def _keep_input(kept: dict[int, Kept], index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept[index] = Kept.of(args[0])

    return hook


def _keep_output(kept: dict[int, Kept], index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        kept[index] = Kept.of(output)

    return hook


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@contextmanager
def untracked_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm uses the batch's statistics, as in training, and leaves its running ones alone."""
    norms: list[Any] = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
