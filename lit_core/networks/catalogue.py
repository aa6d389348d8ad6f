"""Networks of torchvision and timm by the names and shapes of their tensors.

`python -m lit_core.networks.catalogue` writes the file that `lit_spec.networks.catalogue` reads, from the installed
versions of the libraries.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from lit_core.measuring.cost import count_parameters
from lit_core.networks.families import FAMILIES
from lit_core.networks.families.library import as_shapes, create, describe, filled, network_of
from lit_core.networks.families.shapes import Shapes, Unrecognised
from lit_core.networks.inspected_costs import count_flops
from lit_core.networks.parameters import parameter_counts
from lit_core.networks.sections import SectionedNetwork
from lit_spec import Library, LibraryRequest, SpecError
from lit_spec.networks.catalogue import CATALOGUE, catalogue

MOST_TRIED = 24
DIGITS = 12
COUNTER = "num_batches_tracked"


def propose(shapes: Shapes) -> list[LibraryRequest]:
    """The networks that have exactly these tensors and can be made shallower, torchvision's first.

    Of more than MOST_TRIED with the same names, those with a like number of parameters are tried.
    """
    digest = names_digest(shapes)
    alike = [key for key, entry in catalogue().items() if entry["names_digest"] == digest and "refused" not in entry]
    count = sum(math.prod(shape) for shape in shapes.values())
    nearest = sorted(alike, key=lambda key: abs(catalogue()[key]["parameters"] - count))[:MOST_TRIED]
    requests = [LibraryRequest(library=Library(key[0]), name=key[1]) for key in alike if key in nearest]
    return [request for request in requests if _fits(request, shapes)]


def _fits(request: LibraryRequest, shapes: Shapes) -> bool:
    try:
        filled(request, shapes)
    except (Unrecognised, SpecError):
        return False
    return True


def names_digest(names: Iterable[str]) -> str:
    # Old checkpoints do not have BatchNorm's counters.
    kept = sorted(name for name in names if not name.endswith(COUNTER))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:DIGITS]


def write_catalogue() -> None:
    import timm
    from torchvision import models

    names = [(Library.TORCHVISION, name) for name in models.list_models(module=models)]
    names += [(Library.TIMM, name) for name in timm.list_models()]
    entries = [entry for library, name in names if (entry := _entry(library, name)) is not None]
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    CATALOGUE.write_text(f"[\n{lines}\n]\n")
    refused = sum("refused" in entry for entry in entries)
    sys.stdout.write(f"{len(entries)} of {len(names)} networks, {refused} of them refused\n")


def _entry(library: Library, name: str) -> dict[str, Any] | None:
    """None for a network that its library can't build from the name only."""
    request = LibraryRequest(library=library, name=name)
    try:
        network = as_shapes(lambda: create(library, name, {}))
    except SpecError:
        return None
    entry = {
        "library": library.value,
        "name": name,
        "parameters": count_parameters(network),
        "names_digest": names_digest(network.state_dict()),
    }
    try:
        architecture = describe(request, network)
    except Unrecognised as failure:
        return {**entry, "refused": str(failure)}
    found = network_of(architecture)
    counts = parameter_counts(network, found.sections)
    flops = count_flops(architecture, SectionedNetwork(network, FAMILIES[library.value].layout(architecture)))
    return {
        **entry,
        "size": found.size,
        "sections": found.sections,
        "block_parameters": counts.blocks,
        **({"shared_parameters": [group.model_dump(mode="json") for group in counts.shared]} if counts.shared else {}),
        **({"flops": flops.total, "block_flops": flops.blocks} if flops is not None else {}),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write_catalogue()
