"""Families of networks. Each can recognise, build, divide and shorten its networks.

A new family is one file and one line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lit_core.networks.families.library import LibraryFamily, identify
from lit_core.networks.families.resnet_cifar import ResNetCifar
from lit_core.networks.families.resnext_cifar import ResNeXtCifar
from lit_core.networks.families.shapes import NOT_AT_ALL, Shapes, Unrecognised, listed, misfits
from lit_core.networks.families.stargan import StarGan, StarGanDiscriminator
from lit_core.networks.families.vdcnn import Vdcnn
from lit_core.networks.layout import Layout
from lit_spec import Architecture, Library, LibraryRequest

__all__ = ["FAMILIES", "Family", "Layout", "Recognised", "Shapes", "Unrecognised", "family_of", "recognise"]


class Family(Protocol):
    name: str

    def read(self, shapes: Shapes) -> Architecture:
        """The architecture with these tensors. Raises Unrecognised."""
        ...

    def build(self, architecture: Architecture) -> nn.Module:
        """A network with freshly initialised weights, as the family's paper initialises them."""
        ...

    def layout(self, architecture: Architecture) -> Layout: ...

    def students(self, architecture: Architecture) -> list[tuple[int, list[int]]]:
        """(depth, blocks) of every student, shallowest first, the architecture itself last."""
        ...

    def sample(self, architecture: Architecture) -> tuple[Tensor, ...]:
        """One input of the usual size, for which an inspection counts FLOPs and measures latency."""
        ...


OWN: tuple[Family, ...] = (ResNetCifar(), ResNeXtCifar(), Vdcnn(), StarGan(), StarGanDiscriminator())
"""Families that are recognised from tensors only."""
FAMILIES: Mapping[str, Family] = {family.name: family for family in (*OWN, *map(LibraryFamily, Library))}


NAME_IT = "if it is a network of torchvision or timm, give its name as architecture, such as torchvision/resnet50"


@dataclass(frozen=True)
class Recognised:
    family: Family
    architecture: Architecture


def family_of(architecture: Architecture) -> Family:
    """Raises Unrecognised for an unknown family."""
    if architecture.family not in FAMILIES:
        raise Unrecognised(f"the family {architecture.family!r} is not one of {sorted(FAMILIES)}")
    return FAMILIES[architecture.family]


def recognise(shapes: Shapes, request: LibraryRequest | None = None) -> Recognised:
    """Find the family that has exactly these tensors, or check that they are those of the library's network.

    Raises SpecError for a network that its library does not have. Raises Unrecognised with the message of the nearest
    family, or with what all families expect if none is near.
    """
    if request is not None:
        return Recognised(FAMILIES[request.library.value], identify(request, shapes))
    failures: list[Unrecognised] = []
    for family in OWN:
        try:
            architecture = family.read(shapes)
            with torch.device("meta"):
                network = family.build(architecture)
            misfits(shapes, network, f"{architecture.family} of depth {architecture.depth}")
        except Unrecognised as failure:
            failures.append(failure)
        else:
            return Recognised(family, architecture)
    nearest = min(failures, key=lambda failure: failure.count)
    if nearest.count < NOT_AT_ALL:
        raise Unrecognised(str(nearest), nearest.count, NAME_IT)
    raise Unrecognised(
        "is of no family that is recognised by its tensors (ResNet and ResNeXt for CIFAR, VDCNN, StarGAN); it has "
        f"{listed(list(shapes))}",
        advice=f"{NAME_IT}; any other network can be compressed in Python, with lit_core.compress",
    )
