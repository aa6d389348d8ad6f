"""Where in a checkpoint the weights of a network are, and how they are named there.

Trainers put state dicts under names of their own, beside optimizers and what else they need, and wrap networks in
others, which puts prefixes before the names. Nothing here knows which network it is.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lit_core.networks.checkpoints.pickles import Skipped, module_tensors

NOT_OF_A_NETWORK = re.compile(
    r"optimizers?(_states?|_state_dict)?|optim|(lr_)?schedulers?(_state_dict)?|(amp_|grad_)?scaler|callbacks|loops"
    r"|hyper_?param(eter)?s",
    re.IGNORECASE,
)
"""In the keys of what trainers store beside the weights."""
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|shadow|averaged?|avg|polyak)(?:[._]|$)", re.IGNORECASE)
"""In the keys of weights that are a moving average over the training."""
COUNTS_AVERAGES = {"n_averaged", "initted"}
"""Tensors beside averaged weights: of torch's AveragedModel and of ema-pytorch."""
ANYWHERE = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
"""What torch.compile, FSDP, activation checkpoints and Fabric put before names, also inside a network."""
PROFILED = re.compile(r"(?:^|\.)total_(?:ops|params)$")
"""Buffers that thop leaves in every module."""
MOST_FOUND, MOST_LOOKED_AT, MOST_ITEMS, MOST_NESTED, LONGEST_PATH = 32, 10_000, 64, 6, 1_000
MOST_PREFIXES, DEEPEST_PREFIX = 40, 4


@dataclass(frozen=True)
class StateDict:
    """Tensors that a file holds in one place."""

    path: str
    """The keys that lead there, with dots; empty for the file itself."""
    tensors: Mapping[str, Tensor]
    others: Mapping[str, str] = field(default_factory=dict)
    """What else is there, by key: the names of its types."""
    is_module: bool = False
    """Whether it was a pickled module."""
    is_swapped: bool = False
    """Whether its name says the contrary of what it is: mmengine stores the average under `state_dict`, and the raw
    weights with a counter `steps` under `ema_state_dict`."""

    @property
    def is_averaged(self) -> bool:
        return self.is_swapped != self._is_named_averaged

    @property
    def _is_named_averaged(self) -> bool:
        return bool(AVERAGED.search(self.path)) or not COUNTS_AVERAGES.isdisjoint(self.tensors)


def state_dicts(loaded: Any) -> list[StateDict]:
    """The places with most tensors, those with more first. Raises ValueError for a module that has no end."""
    found: list[StateDict] = []
    waiting, seen = deque([("", loaded, 0)]), {id(loaded)}
    while waiting and len(seen) <= MOST_LOOKED_AT:
        path, value, depth = waiting.popleft()
        if isinstance(value, Skipped) and value.is_module:
            found.append(StateDict(path, module_tensors(value), is_module=True))
            continue
        items = _items(value)
        tensors = {str(key): item for key, item in items if isinstance(item, Tensor)}
        if tensors:
            others = {str(key): type_name(item) for key, item in items if not isinstance(item, Tensor)}
            found.append(StateDict(path, tensors, others))
        for key, item in items:
            name = f"{path}.{key}" if path else str(key)
            if not isinstance(item, (Mapping, Skipped, list, tuple)) or id(item) in seen or depth == MOST_NESTED:
                continue
            if len(name) <= LONGEST_PATH and not NOT_OF_A_NETWORK.fullmatch(str(key)):
                seen.add(id(item))
                waiting.append((name, item, depth + 1))
    largest = sorted(found, key=lambda one: -len(one.tensors))[:MOST_FOUND]
    swapped = any(one.path == "ema_state_dict" and "steps" in one.tensors for one in largest)
    return [replace(one, is_swapped=swapped and one.path in {"state_dict", "ema_state_dict"}) for one in largest]


def _items(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, Skipped):
        value = value.items or value.state
    if isinstance(value, Mapping):
        return [(key, item) for key, item in value.items() if isinstance(key, (str, int))]
    if isinstance(value, (list, tuple)):
        return list(enumerate(value[:MOST_ITEMS]))
    return []


def type_name(value: Any) -> str:
    return value.name if isinstance(value, Skipped) else type(value).__name__


@dataclass(frozen=True)
class Cleaned:
    """Tensors without what tools add to names and buffers, and what was taken away."""

    tensors: dict[str, Tensor]
    steps: list[str]


def cleaned(tensors: Mapping[str, Tensor]) -> Cleaned:
    """Raises ValueError if two names become one."""
    plain: dict[str, Tensor] = {}
    removed: set[str] = set()
    profiled = 0
    for name, tensor in tensors.items():
        if PROFILED.search(name):
            profiled += 1
            continue
        short = ANYWHERE.sub("", name)
        removed |= set(ANYWHERE.findall(name))
        if short in plain:
            raise ValueError(f"it has {short} twice, once with a prefix: save one of them")
        plain[short] = tensor
    steps = [f"{', '.join(sorted(removed))} removed from the names"] if removed else []
    steps += [f"{profiled} buffers of a profiler left out"] if profiled else []
    return Cleaned(plain, steps)


def prefixes(names: Iterable[str]) -> Iterator[str]:
    """Prefixes that groups of names share, the empty one first, then those of one part, of two, …"""
    level, left = [""], MOST_PREFIXES
    names = list(names)
    for _ in range(DEEPEST_PREFIX + 1):
        yield from level
        deeper: dict[str, int] = {}
        for name in names:
            for prefix in level:
                if name.startswith(prefix) and "." in (rest := name[len(prefix) :]):
                    longer = prefix + rest.partition(".")[0] + "."
                    deeper[longer] = deeper.get(longer, 0) + 1
        shared = [prefix for prefix, count in deeper.items() if count > 1]
        level = sorted(shared, key=lambda prefix: -deeper[prefix])[:left]
        left -= len(level)
        if not level:
            return


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
