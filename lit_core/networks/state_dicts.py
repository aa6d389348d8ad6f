"""Putting a state dict into a network, whatever it has been stored in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Strictly. Files of tensors don't keep the versions of modules, without which some of torchvision's can't be
    loaded: they are those of this network. Raises RuntimeError for tensors of another network.
    """
    versioned: OrderedDict[str, Tensor] = OrderedDict(state)
    versioned._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    network.load_state_dict(versioned)
