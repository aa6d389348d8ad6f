"""How torchvision and timm preprocess images for the weights that they publish, from the installed packages alone."""

from __future__ import annotations

import math

import torch
from torch import nn

from lit_core.measuring.memory import is_out_of_memory
from lit_core.networks.discovery import check_trains
from lit_core.networks.families.library import asked_size
from lit_spec import Architecture, Library, LibraryNetwork, LibraryPreprocessing, Resampling

CHANNELS = 3
TRANSFORMS_INPUT = ("googlenet", "inception_v3")
"""torchvision's networks whose published weights need `transform_input`, which turns ImageNet's constants into 0.5."""


def library_preprocessing(architecture: Architecture, network: nn.Module) -> LibraryPreprocessing | None:
    """As `preprocessing_of_weights`, at a size at which the network runs, which may have no memory."""
    found, own = preprocessing_of_weights(architecture), architecture.network
    if found is None or own is None or found.size == own.size:
        return found
    # A network that can't run without memory doesn't show at which size it does.
    if _runs(network, found.size) or not _runs(network, own.size):
        return found
    return _at(own.size, found)


def preprocessing_of_weights(architecture: Architecture) -> LibraryPreprocessing | None:
    """None for a network that is not a library's or whose input has not three channels, for a student, which was
    trained with its job's preprocessing, and for preprocessing that is unknown or can't be expressed, as padding."""
    network = architecture.network
    if network is None or network.kept is not None or architecture.channels != CHANNELS:
        return None
    found = _torchvision(network) if architecture.family == Library.TORCHVISION else _timm(network.name)
    own = asked_size(network.kwargs)
    if found is None or own in (None, found.size):
        return found
    # The network was built for another size than the published weights.
    return _at(own, found)


def _at(size: list[int], found: LibraryPreprocessing) -> LibraryPreprocessing:
    return found.model_copy(update={"size": size, "resize": None})


@torch.no_grad()
def _runs(network: nn.Module, size: list[int]) -> bool:
    """Whether the network takes images of a size, also in training mode."""
    x = torch.zeros(2, CHANNELS, *size, device=next(network.parameters()).device)
    try:
        network.eval()(x)
        check_trains(network, x)
    except Exception as failure:
        # A library's code may raise anything.
        if is_out_of_memory(failure):
            raise
        return False
    return True


def _torchvision(network: LibraryNetwork) -> LibraryPreprocessing | None:
    from torchvision import models

    weights = models.get_model_weights(network.name)
    if "DEFAULT" not in weights.__members__:
        return None
    default = weights["DEFAULT"]
    preset = default.transforms()
    (side,), (shorter,) = preset.crop_size, preset.resize_size
    # Tensors don't show the argument, so the network is built without it unless the request says otherwise.
    transformed = network.name in TRANSFORMS_INPUT and network.kwargs.get("transform_input") is not True
    return LibraryPreprocessing(
        weights=default.name,
        size=[side, side],
        resize=shorter,
        resampling=Resampling(preset.interpolation.value),
        mean=[0.5] * CHANNELS if transformed else preset.mean,
        std=[0.5] * CHANNELS if transformed else preset.std,
    )


def _timm(name: str) -> LibraryPreprocessing | None:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None or config.interpolation not in list(Resampling):
        return None
    channels, *size = config.input_size
    if channels != CHANNELS or len({*size}) != 1 or config.crop_pct > 1:
        return None
    # As timm.data.transforms_factory.transforms_imagenet_eval.
    scaled = math.floor(size[0] / config.crop_pct)
    resize: int | list[int] | None
    if config.crop_mode == "squash":
        resize = None if scaled == size[0] else [scaled, scaled]
    elif config.crop_mode == "center":
        resize = scaled
    else:
        return None
    return LibraryPreprocessing(
        weights=config.tag or name,
        size=size,
        resize=resize,
        resampling=Resampling(config.interpolation),
        mean=list(config.mean),
        std=list(config.std),
    )
