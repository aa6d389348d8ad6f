"""A network seen as stem, sections and head, with the inputs and outputs of its sections.

A section is a run of blocks, named by their module paths and watched by hooks, so the network needs no change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_core.families.shapes import Layout
from lit_core.spec import Part


@dataclass(frozen=True)
class Trace:
    """One forward pass: the network's output (logits (B, classes) of a classifier) and each section's input and
    output representation (B, C, …)."""

    output: Tensor
    inputs: list[Tensor]
    outputs: list[Tensor]


class _Enough(Exception):
    """The forward pass has come as far as it was wanted."""


class SectionedNetwork:
    """A network and its layout. The network itself stays an ordinary module."""

    def __init__(self, network: nn.Module, layout: Layout) -> None:
        self.network = network
        self.layout = layout
        self.sections = [nn.Sequential(*(network.get_submodule(path) for path in paths)) for paths in layout.sections]
        """Each runs its blocks, which are the network's own modules, in order."""

    def trace(self, *inputs: Tensor) -> Trace:
        """Run the whole network and keep what enters and leaves each section."""
        given: dict[int, Tensor] = {}
        made: dict[int, Tensor] = {}
        handles = []
        for i, section in enumerate(self.sections):
            handles.append(section[0].register_forward_pre_hook(_keep_input(given, i)))
            handles.append(section[-1].register_forward_hook(_keep_output(made, i)))
        try:
            output = self.network(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        places = range(len(self.sections))
        return Trace(output, [given[i] for i in places], [made[i] for i in places])

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

    def part(self, part: Part) -> list[nn.Module]:
        if part == Part.SECTIONS:
            return list(self.sections)
        paths = self.layout.stem if part == Part.STEM else self.layout.head
        return [self.network.get_submodule(path) for path in paths]

    def train(self, frozen: list[Part]) -> None:
        """Training mode, except for frozen parts: those are in eval mode and have no gradients."""
        self.network.train()
        self.network.requires_grad_(True)
        for part in frozen:
            for module in self.part(part):
                module.eval().requires_grad_(False)

    def freeze(self) -> None:
        """Eval mode without gradients, as the teacher always is."""
        self.network.eval().requires_grad_(False)


def _keep_input(kept: dict[int, Tensor], index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept[index] = args[0]

    return hook


def _keep_output(kept: dict[int, Tensor], index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        kept[index] = output

    return hook


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
