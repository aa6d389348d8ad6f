"""Networks of torchvision and timm, by the library's name.

Nothing here is specific to one network: the library builds it, a forward pass shows its sections, and a student is the
same network without some blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.measuring.memory import is_out_of_memory
from lit_core.networks.discovery import check_trains, find_layout
from lit_core.networks.families.shapes import Shapes, Unrecognised, misfits
from lit_core.networks.layout import Layout, NoSections
from lit_core.networks.sections import has_batch_norm
from lit_core.networks.surgery import cut
from lit_spec import Architecture, Library, LibraryNetwork, LibraryRequest, SpecError
from lit_spec.networks.catalogue import nearest
from lit_spec.networks.students import shares

SIDES = (64, 224, 256, 299, 336, 384, 448, 512)
"""Image sizes with which a network is tried, smallest first."""
USUAL_CLASSES, USUAL_CHANNELS = 1000, 3
SIZE_ARGUMENTS = ("img_size", "image_size", "input_size")
IN_PYTHON = "compress the network in Python with lit_core.compress, which takes any"
CHANGED = (
    "give what differs from the library's defaults (depth, widths, …) as architecture.kwargs; if layers were changed "
    f"otherwise, {IN_PYTHON}"
)


class LibraryFamily:
    def __init__(self, library: Library) -> None:
        self.name = library.value
        self.library = library

    def read(self, shapes: Shapes) -> Architecture:  # noqa: ARG002
        raise Unrecognised(f"is named no network of {self.name}: give its architecture")

    def build(self, architecture: Architecture) -> nn.Module:
        """Initialised as the library does, without its published weights."""
        found = network_of(architecture)
        network = create(self.library, found.name, found.kwargs)
        if found.kept is not None:
            cut(network, _layout(found), found.kept)
        return network

    def layout(self, architecture: Architecture) -> Layout:
        found = network_of(architecture)
        if found.kept is None:
            return _layout(found)
        network = as_shapes(lambda: create(self.library, found.name, found.kwargs))
        return cut(network, _layout(found), found.kept)

    def students(self, architecture: Architecture) -> list[tuple[int, list[int]]]:
        """One student for each number of blocks; every section has its share, and at least one block."""
        own = architecture.blocks
        return [(depth, shares(own, depth)) for depth in range(len(own), sum(own) + 1)]

    def sample(self, architecture: Architecture) -> tuple[Tensor, ...]:
        """An image of the size with which the sections were found."""
        return (torch.zeros(1, int(architecture.channels or 0), *network_of(architecture).size),)


def network_of(architecture: Architecture) -> LibraryNetwork:
    if architecture.network is None:
        raise ValueError(f"an architecture of {architecture.family} names its network")
    return architecture.network


def _layout(network: LibraryNetwork) -> Layout:
    return Layout(tuple(network.stem), tuple(map(tuple, network.sections)), tuple(network.head))


def create(library: Library, name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """A network with random weights. Raises SpecError for a name or arguments that the library does not accept."""
    make = _torchvision if library is Library.TORCHVISION else _timm
    try:
        return make(name, dict(kwargs))
    except SpecError:
        raise
    except Exception as failure:
        # The library's code may raise anything for arguments that it does not check.
        if is_out_of_memory(failure):
            raise
        raise SpecError(
            "architecture.kwargs" if kwargs else "architecture.name",
            f"can't be taken by {library.value}'s {name}: {_first_line(failure)}",
        ) from failure


def _torchvision(name: str, kwargs: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise _unknown("torchvision", name, models.list_models(module=models))
    network: nn.Module = models.get_model(name, weights=None, **kwargs)
    return network


def _timm(name: str, kwargs: dict[str, Any]) -> nn.Module:
    import timm

    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        raise _unknown("timm", name, timm.list_models())
    if tag and name not in (tagged := timm.list_pretrained()):
        raise _unknown("timm", name, [plain, *(other for other in tagged if other.startswith(f"{plain}."))])
    network: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
    return network


def _unknown(library: str, name: str, names: list[str]) -> SpecError:
    near = ", ".join(nearest(name, names)) or names[0]
    return SpecError("architecture.name", f"{library} has no {name!r}: did you mean {near}?")


def blank(request: LibraryRequest) -> nn.Module:
    """The requested network as its library builds it, without memory if possible. Raises SpecError for an unknown name
    or unknown arguments."""
    return as_shapes(lambda: create(request.library, request.name, request.kwargs))


def identify(request: LibraryRequest, shapes: Shapes) -> Architecture:
    """The architecture of the requested network, after checking that these are its tensors.

    `num_classes` and timm's `in_chans` may be missing in `kwargs`; they are taken from the tensors. Raises Unrecognised
    for tensors of another network and for a network that can't be divided, SpecError for an unknown name or unknown
    arguments.
    """
    complete, network = filled(request, shapes)
    channels = complete.kwargs.get("in_chans", USUAL_CHANNELS)
    if not isinstance(channels, int):
        raise SpecError("architecture.kwargs.in_chans", f"is {channels}: give a number of channels, as 3")
    return describe(complete, network, channels)


def filled(request: LibraryRequest, shapes: Shapes) -> tuple[LibraryRequest, nn.Module]:
    """The request with the arguments that the tensors tell, and its network, which has exactly these tensors.

    Raises as `identify`, but doesn't divide the network.
    """
    kwargs = dict(request.kwargs)
    network = blank(request)
    if "num_classes" not in kwargs and getattr(network, "num_classes", None) == 0:
        # timm builds it without a head, because it has no trained one.
        kwargs["num_classes"] = USUAL_CLASSES
        network = as_shapes(lambda: create(request.library, request.name, kwargs))
    told = _told(request, network, shapes)
    if told:
        kwargs |= told
        network = as_shapes(lambda: create(request.library, request.name, kwargs))
    misfits(shapes, network, f"{request.library.value}'s {request.name}", CHANGED)
    return request.model_copy(update={"kwargs": kwargs}), network


def describe_student(library: Library, told: LibraryNetwork) -> Architecture:
    """The architecture of a student of a library's network, of which only what can't be found out is taken from `told`:
    name, arguments, blocks and which of them are kept.

    Raises SpecError and Unrecognised, and ValueError for blocks that the network doesn't have.
    """
    request = LibraryRequest(library=library, name=told.name, kwargs=told.kwargs, sections=list(told.sections))
    channels = request.kwargs.get("in_chans", USUAL_CHANNELS)
    whole = describe(request, blank(request), channels if isinstance(channels, int) else USUAL_CHANNELS)
    if told.kept is None:
        return whole
    blocks = [len(kept) for kept in told.kept]
    network = network_of(whole).model_copy(update={"kept": told.kept})
    return whole.model_copy(update={"depth": sum(blocks), "blocks": blocks, "network": network})


def describe(request: LibraryRequest, network: nn.Module, channels: int = USUAL_CHANNELS) -> Architecture:
    """Divide a library's network. Raises Unrecognised if that is impossible."""
    make: Callable[[], nn.Module] = lambda: create(request.library, request.name, request.kwargs)  # noqa: E731
    layout, size, outputs = _divided(network, make, channels, request)
    blocks = [len(section) for section in layout.sections]
    return Architecture(
        family=request.library.value,
        depth=sum(blocks),
        blocks=blocks,
        channels=channels,
        classes=outputs,
        options={"normalisation": "batch" if has_batch_norm(network) else "other"},
        network=LibraryNetwork(
            name=request.name,
            kwargs=request.kwargs,
            stem=list(layout.stem),
            sections=[list(section) for section in layout.sections],
            head=list(layout.head),
            size=size,
        ),
    )


def as_shapes(make: Callable[[], nn.Module]) -> nn.Module:
    """A network on the meta device, without memory, if possible: building some networks needs values."""
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError, SpecError):
        return make()


def _told(request: LibraryRequest, network: nn.Module, shapes: Shapes) -> dict[str, int]:
    """Arguments taken from the tensors: those that differ most often from the library's defaults."""
    told: dict[str, int] = {}
    classes = getattr(network, "num_classes", USUAL_CLASSES)
    for key, expected in network.state_dict().items():
        found = shapes.get(key)
        wanted = tuple(expected.shape)
        if found is None or found == wanted or len(found) != len(wanted) or not wanted:
            continue
        if wanted[0] == classes and found[1:] == wanted[1:]:
            told["num_classes"] = found[0]
        elif len(wanted) == 4 and wanted[1] == USUAL_CHANNELS and request.library is Library.TIMM:
            told["in_chans"] = found[1]
    return {name: value for name, value in told.items() if name not in request.kwargs}


def _divided(
    network: nn.Module, make: Callable[[], nn.Module], channels: int, request: LibraryRequest
) -> tuple[Layout, list[int], int]:
    """The layout, the image size with which it was found, and the number of classes."""
    failure: Exception | None = None
    # Networks that can't run on the meta device are run on the CPU.
    for real in (False, True):
        tried = make() if real else network
        device = next(tried.parameters()).device
        if real and device != torch.device("cpu"):
            continue
        for size in _sizes(request, network):
            x = torch.zeros(2, channels, *size, device=device)
            try:
                layout = find_layout(tried, (x,), request.sections or ())
                check_trains(tried, x)
                return layout, size, _outputs(tried, x)
            except NoSections as none:
                if request.sections:
                    raise SpecError("architecture.sections", str(none)) from none
                raise Unrecognised(f"can't be made shallower: {none}") from none
            except Exception as wrong:  # noqa: BLE001 - a library's code may raise anything; shown if no size works
                failure = failure or wrong
    raise Unrecognised(f"can't be run on images of {SIDES[0]} to {SIDES[-1]} pixels: {_first_line(failure)}")


def _sizes(request: LibraryRequest, network: nn.Module) -> list[list[int]]:
    """Image sizes to try: the requested one, a small one, the library's default, then others."""
    asked = asked_size(request.kwargs)
    usual = list(getattr(network, "default_cfg", {}).get("input_size", ()))[1:]
    small, *others = SIDES
    return [
        *([] if asked is None else [asked]),
        [small, small],
        *([usual] if len(usual) == 2 else []),
        *([side, side] for side in others),
    ]


def asked_size(kwargs: Mapping[str, Any]) -> list[int] | None:
    """Height and width of the images that a network is built for, if its arguments say so."""
    named = next((kwargs[name] for name in SIZE_ARGUMENTS if name in kwargs), None)
    sides: list[Any] = named[-2:] if isinstance(named, list) else [named, named]
    return sides if len(sides) == 2 and all(type(side) is int for side in sides) else None


@torch.no_grad()
def _outputs(network: nn.Module, x: Tensor) -> int:
    output = network.eval()(x)
    if not isinstance(output, Tensor) or output.ndim != 2:
        shown = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise NoSections(f"it is not a classifier: its output is {shown}, not one row of logits for each image")
    return int(output.shape[1])


def _first_line(failure: Exception | None) -> str:
    """The first line of the message with the exception's name, without which Python's own messages say little."""
    lines = str(failure).strip().splitlines()
    return ": ".join([type(failure).__name__, *(re.sub(r"\s+", " ", line) for line in lines[:1])])
