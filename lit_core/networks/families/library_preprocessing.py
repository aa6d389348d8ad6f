"""How torchvision and timm preprocess images for the weights that they publish, from the installed packages alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lit_spec import Architecture, Library, LibraryPreprocessing, Resampling

CHANNELS = 3


def library_preprocessing(architecture: Architecture) -> LibraryPreprocessing | None:
    """None for a network that is not a library's or whose input has not three channels, and for preprocessing that is
    unknown or can't be expressed, as padding."""
    network = architecture.network
    if network is None or architecture.channels != CHANNELS:
        return None
    find = _torchvision if architecture.family == Library.TORCHVISION else _timm
    found = find(network.name)
    own = _size_of(network.kwargs)
    if found is None or own in (None, found.size):
        return found
    # The network was built for another size than the published weights.
    return found.model_copy(update={"size": own, "resize": None})


def _size_of(kwargs: Mapping[str, Any]) -> list[int] | None:
    """The size that a network was built for, if its arguments say so."""
    given = kwargs.get("img_size", kwargs.get("image_size"))
    if isinstance(given, list):
        return given
    return [given, given] if isinstance(given, int) else None


def _torchvision(name: str) -> LibraryPreprocessing | None:
    from torchvision import models

    weights = models.get_model_weights(name)
    if "DEFAULT" not in weights.__members__:
        return None
    default = weights["DEFAULT"]
    preset = default.transforms()
    (side,), (shorter,) = preset.crop_size, preset.resize_size
    return LibraryPreprocessing(
        weights=default.name,
        size=[side, side],
        resize=shorter,
        resampling=Resampling(preset.interpolation.value),
        mean=preset.mean,
        std=preset.std,
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
