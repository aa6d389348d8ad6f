"""Counting what a network keeps when blocks are left out. Parameters that several modules share count once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from torch import nn

from lit_core.measuring.cost import count_parameters
from lit_spec.networks.students import ParameterCounts, SharedParameters

Block = tuple[int, int]
"""Section and index."""


def parameter_counts(network: nn.Module, sections: Sequence[Sequence[str]]) -> ParameterCounts:
    """`sections` are the paths of each section's blocks."""
    blocks = {path: (n, index) for n, paths in enumerate(sections) for index, path in enumerate(paths)}
    sizes: dict[int, int] = {}
    owners: dict[int, set[Block | None]] = defaultdict(set)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        sizes[id(parameter)] = parameter.numel()
        owners[id(parameter)].add(_block_of(name, blocks))
    by_owners: Counter[tuple[Block, ...]] = Counter()
    for parameter_id, found in owners.items():
        # What something outside of the blocks has as well always stays.
        if None not in found:
            by_owners[tuple(sorted(block for block in found if block is not None))] += sizes[parameter_id]
    return ParameterCounts(
        total=count_parameters(network),
        blocks=[[by_owners[((n, index),)] for index in range(len(paths))] for n, paths in enumerate(sections)],
        shared=[
            SharedParameters(blocks=list(group), parameters=count)
            for group, count in sorted(by_owners.items())
            if len(group) > 1
        ],
    )


def _block_of(name: str, blocks: dict[str, Block]) -> Block | None:
    """The block that the parameter is in; None outside of all blocks."""
    path = name
    while path := path.rpartition(".")[0]:
        if path in blocks:
            return blocks[path]
    return None
