"""Taking blocks out of a network: the student is the teacher's own code with fewer blocks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lit_core.networks.layout import Layout

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that only hold others, so that a child can be removed. Other modules call their children by name."""
NUMBERED = re.compile(r"(.*?)(\d+)")
DROPS = {"DropPath": "drop_prob", "StochasticDepth": "p"}
"""Modules of timm and torchvision that skip their block at random, and the attribute with the probability."""


class RemovedBlock(nn.Module):
    """Replaces a block that its parent's code calls by name; returns its input."""

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return x


def cut(network: nn.Module, layout: Layout, kept_blocks: Sequence[Sequence[int]]) -> Layout:
    """Remove blocks as `remove_blocks` does. The probability of stochastic depth, which grows along the network, is
    spread over the remaining blocks as it was over all."""
    before = _drop_rates(network, layout)
    after = remove_blocks(network, layout, kept_blocks)
    _spread(network, after, before)
    return after


def remove_blocks(network: nn.Module, layout: Layout, kept_blocks: Sequence[Sequence[int]]) -> Layout:
    """Remove all blocks but `kept_blocks` from the network, in place, and return the layout of what is left.

    In containers the remaining blocks are renumbered, as in a shallower network of the same library. In other
    modules they keep their names, and a removed block is replaced by a `RemovedBlock`. The blocks themselves are not
    changed.
    """
    _check(layout, kept_blocks)
    gone = {
        path
        for paths, places in zip(layout.sections, kept_blocks, strict=True)
        for place, path in enumerate(paths)
        if place not in places
    }
    names: dict[str, str] = {}
    # From the inside out, because a renamed container changes the paths of everything in it.
    containers = {path.rpartition(".")[0] for path in gone}
    for container in sorted(containers, key=lambda path: (path.count("."), path), reverse=True):
        names |= _take_out(network.get_submodule(container), container, gone)
    sections = tuple(
        tuple(_renamed(paths[place], names) for place in places)
        for paths, places in zip(layout.sections, kept_blocks, strict=True)
    )
    return Layout(
        stem=tuple(_renamed(path, names) for path in layout.stem),
        sections=sections,
        head=tuple(_renamed(path, names) for path in layout.head),
    )


def _check(layout: Layout, kept_blocks: Sequence[Sequence[int]]) -> None:
    if len(kept_blocks) != len(layout.sections):
        raise ValueError(f"kept_blocks has {len(kept_blocks)} sections, but the network has {len(layout.sections)}")
    for places, paths in zip(kept_blocks, layout.sections, strict=True):
        if not places or list(places) != sorted(set(places)) or places[0] < 0 or places[-1] >= len(paths):
            raise ValueError(f"kept_blocks has {list(places)}, which are not ascending indices of {len(paths)} blocks")


def _take_out(container: nn.Module, path: str, gone: set[str]) -> dict[str, str]:
    """The new paths of the remaining children, by their old paths."""
    prefix = f"{path}." if path else ""
    if not isinstance(container, CONTAINERS):
        for name in [name for name, _ in container.named_children() if f"{prefix}{name}" in gone]:
            setattr(container, name, RemovedBlock())
        return {}
    children = list(container.named_children())
    groups: dict[str, list[str]] = defaultdict(list)
    for name, _ in children:
        if match := NUMBERED.fullmatch(name):
            groups[match[1]].append(name)
    names = {group: iter(own) for group, own in groups.items()}
    moved: dict[str, str] = {}
    left: dict[str, nn.Module] = {}
    for name, child in children:
        if f"{prefix}{name}" in gone:
            continue
        match = NUMBERED.fullmatch(name)
        new = name if match is None else next(names[match[1]])
        moved[f"{prefix}{name}"] = f"{prefix}{new}"
        left[new] = child
    container._modules.clear()
    container._modules.update(left)
    return moved


def _renamed(path: str, names: dict[str, str]) -> str:
    """Containers that lose blocks may be nested, so every part of the path is looked up, from the inside out."""
    for end in range(len(path), 0, -1):
        if (end == len(path) or path[end] == ".") and path[:end] in names:
            return _renamed_outer(names[path[:end]], names) + path[end:]
    return path


def _renamed_outer(path: str, names: dict[str, str]) -> str:
    parent, _, name = path.rpartition(".")
    return f"{_renamed(parent, names)}.{name}" if parent else name


def _drop_rates(network: nn.Module, layout: Layout) -> list[float]:
    """The largest probability of stochastic depth in each block, in order."""
    blocks = [network.get_submodule(path) for paths in layout.sections for path in paths]
    return [max((rate for _, _, rate in _drops(block)), default=0.0) for block in blocks]


def _drops(block: nn.Module) -> list[tuple[nn.Module, str, float]]:
    found = []
    for module in block.modules():
        name = DROPS.get(type(module).__name__)
        if name is not None and isinstance(getattr(module, name, None), float | int):
            found.append((module, name, float(getattr(module, name))))
    return found


def _spread(network: nn.Module, layout: Layout, rates: Sequence[float]) -> None:
    blocks = [network.get_submodule(path) for paths in layout.sections for path in paths]
    if len(blocks) == len(rates) or not any(rates):
        return
    for number, block in enumerate(blocks):
        place = number * (len(rates) - 1) / max(len(blocks) - 1, 1)
        low = int(place)
        high = min(low + 1, len(rates) - 1)
        rate = rates[low] + (place - low) * (rates[high] - rates[low])
        for module, name, own in _drops(block):
            if own > 0:
                setattr(module, name, rate)
