"""Loading a state dict into a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Load strictly; with `assign` these tensors become the network's own. Raises RuntimeError for tensors of another
    network.

    Files of tensors lack the versions of modules, without which some of torchvision's can't be loaded, so the versions
    of this network are used.
    """
    versioned: OrderedDict[str, Tensor] = OrderedDict(state)
    versioned._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    network.load_state_dict(versioned, assign=assign)
