"""A network seen as stem, sections and head, with the inputs and outputs of its sections.

Sections are named by module paths and watched by hooks, so the network needs no change.
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
    """One forward pass: logits (B, classes) and each section's input and output representation (B, C, H, W)."""

    logits: Tensor
    inputs: list[Tensor]
    outputs: list[Tensor]


class SectionedNetwork:
    """A network and its layout. The network itself stays an ordinary module."""

    def __init__(self, network: nn.Module, layout: Layout) -> None:
        self.network = network
        self.layout = layout
        self.sections = [network.get_submodule(path) for path in layout.sections]

    def trace(self, x: Tensor) -> Trace:
        """Run the whole network and keep what enters and leaves each section."""
        seen: dict[int, tuple[Tensor, Tensor]] = {}

        def keep(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                seen[index] = (args[0], output)

            return hook

        handles = [module.register_forward_hook(keep(i)) for i, module in enumerate(self.sections)]
        try:
            logits = self.network(x)
        finally:
            for handle in handles:
                handle.remove()
        pairs = [seen[i] for i in range(len(self.sections))]
        return Trace(logits, [given for given, _ in pairs], [made for _, made in pairs])

    def part(self, part: Part) -> list[nn.Module]:
        paths = {Part.STEM: self.layout.stem, Part.SECTIONS: self.layout.sections, Part.HEAD: self.layout.head}[part]
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
