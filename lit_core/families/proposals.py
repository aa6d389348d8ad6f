"""Which networks of torchvision and timm a checkpoint may belong to, by its tensors' names and shapes.

`python -m lit_core.families.proposals` writes the index anew, for the versions that are installed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
from torch import nn

from lit_core.families.library import create, identify
from lit_core.families.shapes import Shapes, Unrecognised
from lit_core.spec import Library, LibraryRequest, SpecError

INDEX = Path(__file__).with_name("library_index.json")
MOST_TRIED, MOST_PROPOSED = 12, 5
DIGITS = 12
COUNTER = "num_batches_tracked"


def propose(shapes: Shapes) -> list[LibraryRequest]:
    """The networks whose tensors these are, of torchvision first; some of them where there are many."""
    found = []
    for name in _index().get(_names_digest(shapes), [])[:MOST_TRIED]:
        library, _, own = name.partition("/")
        request = LibraryRequest(library=Library(library), name=own)
        try:
            identify(request, shapes)
        except (Unrecognised, SpecError):
            continue
        found.append(request)
        if len(found) == MOST_PROPOSED:
            break
    return found


@cache
def _index() -> dict[str, list[str]]:
    index: dict[str, list[str]] = json.loads(INDEX.read_text())
    return index


def _names_digest(names: Iterable[str]) -> str:
    # Old checkpoints lack BatchNorm's counters.
    kept = sorted(name for name in names if not name.endswith(COUNTER))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:DIGITS]


def _all_names() -> list[tuple[Library, str]]:
    import timm
    from torchvision import models

    both = ((Library.TORCHVISION, models.list_models(module=models)), (Library.TIMM, timm.list_models()))
    return [(library, name) for library, names in both for name in names]


def _network(library: Library, name: str) -> nn.Module | None:
    try:
        with torch.device("meta"):
            return create(library, name, {})
    except (NotImplementedError, RuntimeError):
        return create(library, name, {})
    except SpecError:
        return None


def write_index() -> None:
    index: dict[str, list[str]] = defaultdict(list)
    for library, name in _all_names():
        network = _network(library, name)
        if network is not None:
            index[_names_digest(network.state_dict())].append(f"{library.value}/{name}")
    INDEX.write_text(json.dumps(index, sort_keys=True, separators=(",", ":")).replace("],", "],\n") + "\n")
    sys.stdout.write(f"{sum(map(len, index.values()))} networks, {len(index)} sets of names\n")


if __name__ == "__main__":
    write_index()
