"""Code that families share: naming the modules of sections, and comparing tensors with a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn

Shapes = Mapping[str, tuple[int, ...]]

LISTED_KEYS, LONGEST_KEY = 4, 200
NOT_AT_ALL = 1_000_000
"""Keys that differ, of a family of which no tensor is there."""
BEGINS = NOT_AT_ALL - 1
"""Of a family of which some are."""


def numbered(path: str, count: int, prefix: str = "") -> tuple[str, ...]:
    """The paths of a sequence's modules: `layer1.0`, `layer1.1`, …"""
    return tuple(f"{path}.{prefix}{index}" for index in range(count))


def count_blocks(shapes: Shapes, section: str, prefix: str = "") -> int:
    """The number of blocks `section.<prefix><number>` in the tensors' names."""
    pattern = re.compile(rf"{re.escape(section)}\.{re.escape(prefix)}(\d+)\.")
    return len({int(match[1]) for key in shapes if (match := pattern.match(key))})


def shortened(blocks: list[int]) -> list[list[int]]:
    """1, 2, … blocks in each section, but never more than it has; the whole network comes last."""
    return [[min(n, count) for count in blocks] for n in range(1, max(blocks) + 1)]


class Unrecognised(Exception):
    """The tensors are not of this family. `count` is the number of keys that differ, `advice` what may help."""

    def __init__(self, message: str, count: int = NOT_AT_ALL, advice: str = "") -> None:
        super().__init__(message)
        self.count, self.advice = count, advice


def extents(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    """A tensor's shape. Raises Unrecognised if it is missing, empty or has another number of dimensions."""
    shape = shapes.get(name)
    if shape is None:
        raise Unrecognised(f"lacks {name}", BEGINS)
    if len(shape) != dimensions or 0 in shape:
        raise Unrecognised(f"has {name} of shape {list(shape)}, not of {dimensions} dimensions", BEGINS)
    return shape


def misfits(shapes: Shapes, network: nn.Module, what: str, advice: str = "") -> None:
    """Compare names and shapes with those of a network. Raises Unrecognised with the keys that differ."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    # Old checkpoints have no step counters of BatchNorm; nothing depends on them.
    missing = [k for k in expected if k not in shapes and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in shapes if k not in expected]
    misshapen = [k for k in expected if k in shapes and shapes[k] != expected[k]]
    if not (missing or unexpected or misshapen):
        return
    parts = []
    if missing:
        parts.append(f"missing: {listed(missing)}")
    if unexpected:
        parts.append(f"not part of it: {listed(unexpected)}")
    if misshapen:
        shown = [f"{k} has {list(shapes[k])}, not {list(expected[k])}" for k in misshapen]
        parts.append(f"of another shape: {listed(shown)}")
    count = len(missing) + len(unexpected) + len(misshapen)
    raise Unrecognised(f"looks like {what}, but " + "; ".join(parts), count, advice)


def listed(keys: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    more = f" and {len(keys) - LISTED_KEYS} more" if len(keys) > LISTED_KEYS else ""
    return ", ".join(key if len(key) <= LONGEST_KEY else f"{key[:LONGEST_KEY]}…" for key in keys[:LISTED_KEYS]) + more
