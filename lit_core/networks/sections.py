"""A network as stem, sections and head, with access to the inputs and outputs of its sections.

A section is a run of blocks. Module paths name the blocks and hooks read their inputs and outputs, so the network is
not changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from lit_core.measuring.scores import class_logits
from lit_core.networks.layout import Layout, NoSections
from lit_core.networks.watching import SavedTensor, saved, value_of
from lit_spec import BatchNorm, Part

MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
CONSTANT = (type(None), int, float, str, tuple, type, FunctionType, torch.dtype, torch.device)
"""Types of attributes whose values nobody changes."""


@dataclass(frozen=True)
class ExtraArguments:
    """Arguments of a block beside the representation, such as a mask or a position embedding."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class Section(nn.Sequential):
    """A run of blocks. The blocks are the network's own modules, not copies."""

    def forward(self, x: Tensor, extra_arguments: Sequence[ExtraArguments] = ()) -> Tensor:
        """Run the blocks in order, each with its extra arguments; if there are none, with the representation only."""
        for block, extra in zip(self, extra_arguments or [ExtraArguments()] * len(self), strict=True):
            x = block(x, *extra.args, **extra.kwargs)
        return x


@dataclass(frozen=True)
class Trace:
    """One forward pass: the network's output (logits (B, classes) of a classifier) and each section's input and
    output representation (B, C, …)."""

    output: Tensor
    inputs: list[Tensor]
    outputs: list[Tensor]
    extra_arguments: list[list[ExtraArguments]]
    """Extra arguments of each block, by section."""
    is_chain: bool
    """Whether each section's input is exactly the output of the section before it, with no layers in between."""


class _ForwardStopped(Exception):
    """Raised by a hook to end a forward pass early."""


class SectionedNetwork:
    """A network and its layout. The network itself stays an ordinary module."""

    def __init__(self, network: nn.Module, layout: Layout, kept_blocks: Sequence[Sequence[int]] | None = None) -> None:
        """`kept_blocks` are the teacher's indices of a student's blocks. None: the network is not a student."""
        self.network = network
        self.layout = layout
        self.probe_size: list[int] | None = None
        """For a library's network: an image size that the network can take, as height and width in pixels."""
        self.kept_blocks = (
            [list(range(len(paths))) for paths in layout.sections] if kept_blocks is None else kept_blocks
        )
        self.sections = [Section(*(network.get_submodule(path) for path in paths)) for paths in layout.sections]
        self._changes_in_place = False
        self._trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def run(self, *inputs: Tensor) -> Tensor:
        """The network's output as in a Trace."""
        return _main_output(self.network(*inputs))

    def extra_arguments_of(self, teacher: Trace, section: int) -> list[ExtraArguments]:
        """The extra arguments of the teacher's blocks, for the blocks of this student's section."""
        return [teacher.extra_arguments[section][index] for index in self.kept_blocks[section]]

    def trace(self, *inputs: Tensor) -> Trace:
        """Run the whole network and record what enters and leaves each section.

        What is recorded is copied, because a later layer may change it in place. A network in eval mode without
        gradients does without copies until a pass shows that it does so; that pass is repeated, with the same result.
        """
        if not (self._changes_in_place or self.network.training or torch.is_grad_enabled()):
            trace = self._trace(inputs, copied=False)
            if trace is not None:
                return trace
            self._changes_in_place = True
        trace = self._trace(inputs, copied=True)
        if trace is None:
            raise ValueError("copies can't be lost")
        return trace

    def _trace(self, inputs: tuple[Tensor, ...], *, copied: bool) -> Trace | None:
        """None if a later layer has changed a tensor in place that was not copied."""
        entered: dict[int, SavedTensor] = {}
        left: dict[int, SavedTensor] = {}
        extra = [[ExtraArguments()] * len(section) for section in self.sections]
        handles = []
        for i, section in enumerate(self.sections):
            handles.append(section[0].register_forward_pre_hook(_save_input(entered, i, copied=copied)))
            for place, block in enumerate(section):
                save = _save_extra_arguments(extra[i], place, copied=copied)
                handles.append(block.register_forward_pre_hook(save, with_kwargs=True))
            handles.append(section[-1].register_forward_hook(_save_output(left, i, copied=copied)))
        try:
            output = self.run(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        given, returned = self._by_section(entered, first=True), self._by_section(left, first=False)
        arguments = [leaf for blocks in extra for one in blocks for leaf in tree_leaves((one.args, one.kwargs))]
        if any(isinstance(one, SavedTensor) and one.is_lost for one in (*given, *returned, *arguments)):
            return None
        return Trace(
            output,
            inputs=[tensor.value for tensor in given],
            outputs=[tensor.value for tensor in returned],
            extra_arguments=[
                [ExtraArguments(*tree_map(value_of, (one.args, one.kwargs))) for one in blocks] for blocks in extra
            ],
            is_chain=all(
                after.version.is_same_as(before.version) for after, before in zip(given[1:], returned, strict=False)
            ),
        )

    def outputs_fed(self, fed: Sequence[Tensor | None], *inputs: Tensor) -> list[Tensor]:
        """The output of each section in one forward pass. A section with a tensor in `fed` runs on that tensor."""
        left: dict[int, SavedTensor] = {}
        handles = []
        for i, (section, given) in enumerate(zip(self.sections, fed, strict=True)):
            if given is not None:
                handles.append(section[0].register_forward_pre_hook(_replace_input(given)))
            handles.append(section[-1].register_forward_hook(_save_output(left, i)))
        try:
            self.network(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        return [tensor.value for tensor in self._by_section(left, first=False)]

    def _by_section(self, tensors: Mapping[int, SavedTensor], *, first: bool) -> list[SavedTensor]:
        """The tensors of each section's first or last block. Raises NoSections for a block that was not run."""
        for i, paths in enumerate(self.layout.sections):
            if i not in tensors:
                raise NoSections(
                    f"{paths[0 if first else -1]} was not run in a forward pass: a network that skips blocks at random "
                    "or depending on its input can't be trained section by section; use method kd, or a network that "
                    "always runs its blocks"
                )
        return [tensors[i] for i in range(len(self.sections))]

    def stem_output(self, *inputs: Tensor) -> Tensor:
        """The input of the first section. The rest of the network is not run."""
        entered: dict[int, Tensor] = {}

        def stop(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            entered[0] = args[0]
            raise _ForwardStopped

        handle = self.sections[0][0].register_forward_pre_hook(stop)
        try:
            self.network(*inputs)
        except _ForwardStopped:
            pass
        finally:
            handle.remove()
        return entered[0]

    def part(self, part: Part) -> list[nn.Module | nn.Parameter]:
        if part == Part.SECTIONS:
            return list(self.sections)
        paths = self.layout.stem if part == Part.STEM else self.layout.head
        return [self._at(path) for path in paths]

    def _at(self, path: str) -> nn.Module | nn.Parameter:
        parent, _, name = path.rpartition(".")
        found: nn.Module | nn.Parameter = getattr(self.network.get_submodule(parent), name)
        return found

    def train(self, frozen: list[Part], *, batch_norm: BatchNorm = BatchNorm.TRAIN, dropout: bool = True) -> None:
        """Put all parts except the frozen ones into training mode. Frozen parts are in eval mode without gradients.

        Parameters without gradients when this object was made, such as fixed embeddings, still have none. Without
        `dropout` all modules but BatchNorm and recurrent layers are in eval mode, and with `batch_norm` frozen so is
        BatchNorm.
        """
        self.network.train()
        if {Part.STEM, Part.HEAD} <= set(frozen):
            # Modules around the sections may call functional dropout themselves, so they are in eval mode too.
            self.network.eval()
            for section in self.sections:
                section.train()
        for module in self.network.modules():
            is_batch_norm = isinstance(module, _BatchNorm)
            if isinstance(module, nn.RNNBase):
                # On CUDA, cuDNN has no backward pass of recurrent layers in eval mode.
                continue
            if (is_batch_norm and batch_norm == BatchNorm.FROZEN) or not (is_batch_norm or dropout):
                module.training = False
        self.freeze_parameters()
        for parameter in self._trainable:
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
        """Whether the tensor is a parameter that had gradients when this object was made."""
        return any(tensor is parameter for parameter in self._trainable)

    @property
    def sections_learn(self) -> bool:
        """Whether a block has a parameter that had gradients when this object was made."""
        return any(self.learns(parameter) for section in self.sections for parameter in section.parameters())

    def view_of_network(self) -> nn.Module:
        """A copy of the network's modules with the network's own parameters and buffers.

        Blocks are the network's own where nothing but tensors is in them that could change; others are copied together
        with what they share with the rest of the network.
        """
        blocks = [block for section in self.sections for block in section if _has_only_tensors(block)]
        shared = [*blocks, *self.network.parameters(), *self.network.buffers()]
        return copy.deepcopy(self.network, {id(one): one for one in shared})

    def copy_of_network(self) -> nn.Module:
        """A copy of the network with its weights. Parameters have gradients if they had some at first."""
        copied = copy.deepcopy(self.network)
        learn = set(map(id, self._trainable))
        for parameter, own in zip(copied.parameters(), self.network.parameters(), strict=True):
            parameter.requires_grad_(id(own) in learn)
        return copied


def _has_only_tensors(block: nn.Module) -> bool:
    """Whether all else that the block's modules hold never changes, such as numbers."""
    for module in block.modules():
        # The lists of torch's own layers, such as paddings, are not changed by anybody.
        constant = CONSTANT if not type(module).__module__.startswith("torch.nn.") else (*CONSTANT, list)
        own = (value for name, value in vars(module).items() if name not in MODULE_ATTRIBUTES)
        if not all(isinstance(value, constant) for value in own):
            return False
    return True


def _main_output(output: Any) -> Tensor:
    """The output of the main head, with two logits where it is one. In training mode some networks (GoogLeNet,
    Inception) return a tuple: the main head's output, then those of other heads."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return class_logits(found)


def _replace_input(given: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # A copy, because the section may change its input in place.
        return (given.clone(), *args[1:])

    return hook


def _save_extra_arguments(
    arguments: list[ExtraArguments], place: int, *, copied: bool
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments[place] = ExtraArguments(*tree_map(partial(saved, copied=copied), (args[1:], dict(kwargs))))

    return hook


def _save_input(
    tensors: dict[int, SavedTensor], index: int, *, copied: bool
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        tensors[index] = SavedTensor.of(args[0], copied=copied)

    return hook


def _save_output(
    tensors: dict[int, SavedTensor], index: int, *, copied: bool = True
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        tensors[index] = SavedTensor.of(output, copied=copied)

    return hook


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@contextmanager
def untracked_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm uses the batch's statistics, as in training, but does not update its running statistics."""
    norms: list[Any] = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
