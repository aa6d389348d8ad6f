"""What families share: the division of a network, and the comparison of a checkpoint's tensors with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lit_core.spec import Architecture

Shapes = Mapping[str, tuple[int, ...]]

LISTED_KEYS = 8


@dataclass(frozen=True)
class Layout:
    """Module paths of a network's stem, sections and head. A section is a sequence of blocks, each a module."""

    stem: tuple[str, ...]
    sections: tuple[tuple[str, ...], ...]
    head: tuple[str, ...]


def numbered(path: str, count: int, prefix: str = "") -> tuple[str, ...]:
    """The paths of a sequence's modules: `layer1.0`, `layer1.1`, …"""
    return tuple(f"{path}.{prefix}{index}" for index in range(count))


class Unrecognised(Exception):
    """The tensors don't belong to this family. `count` says by how many keys they miss it."""

    def __init__(self, message: str, count: int = 1_000_000) -> None:
        super().__init__(message)
        self.count = count


def misfits(shapes: Shapes, build: Callable[[Architecture], nn.Module], architecture: Architecture) -> None:
    """Compare names and shapes with the network that they are said to be. Raises Unrecognised listing the keys."""
    with torch.device("meta"):
        network = build(architecture)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    # Old checkpoints lack BatchNorm's step counters; nothing depends on them.
    missing = [k for k in expected if k not in shapes and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in shapes if k not in expected]
    misshapen = [k for k in expected if k in shapes and shapes[k] != expected[k]]
    if not (missing or unexpected or misshapen):
        return
    parts = []
    if missing:
        parts.append(f"missing: {_listed(missing)}")
    if unexpected:
        parts.append(f"not part of it: {_listed(unexpected)}")
    if misshapen:
        shown = [f"{k} has {list(shapes[k])}, not {list(expected[k])}" for k in misshapen]
        parts.append(f"of another shape: {_listed(shown)}")
    count = len(missing) + len(unexpected) + len(misshapen)
    raise Unrecognised(
        f"looks like {architecture.family} of depth {architecture.depth}, but " + "; ".join(parts), count
    )


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - LISTED_KEYS} more" if len(keys) > LISTED_KEYS else ""
    return ", ".join(keys[:LISTED_KEYS]) + more
