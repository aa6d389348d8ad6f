"""Library networks have their library's preprocessing, and ours gives the pixels that the library's own gives."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import nn
from torchvision import models

from lit_core.data import ImagePreprocessing
from lit_core.data.preprocessing import published_preprocessing
from lit_core.exports.hugging_face import timm_config
from lit_core.networks.families.library import blank, describe
from lit_core.networks.families.library_preprocessing import library_preprocessing, preprocessing_of_weights
from lit_core.networks.teacher import inspect_teacher, read_teacher
from lit_spec import Architecture, LibraryNetwork, LibraryPreprocessing, LibraryRequest

SIZES = ((300, 200), (201, 333), (225, 226), (32, 32))


def architecture_of(library: str, name: str, channels: int = 3, **kwargs: Any) -> Architecture:
    network = LibraryNetwork(name=name, kwargs=kwargs, stem=[], sections=[], head=[], size=[64, 64])
    return Architecture(family=library, depth=1, blocks=[1], channels=channels, classes=2, network=network)


def found(library: str, name: str, channels: int = 3, **kwargs: Any) -> LibraryPreprocessing | None:
    return preprocessing_of_weights(architecture_of(library, name, channels, **kwargs))


def images() -> list[Image.Image]:
    """Of several shapes, smooth enough that a filter matters and rough enough that a shift does."""
    generator = np.random.default_rng(0)
    small = [generator.integers(0, 256, (height // 5 + 2, width // 5 + 2, 3), np.uint8) for width, height in SIZES]
    return [Image.fromarray(x).resize(size, Image.Resampling.BICUBIC) for x, size in zip(small, SIZES, strict=True)]


def own(library: LibraryPreprocessing | None) -> ImagePreprocessing:
    assert library is not None
    return published_preprocessing(library, ["a", "b"])


def levels(one: torch.Tensor, other: torch.Tensor, std: list[float]) -> float:
    """The largest difference in levels of a pixel."""
    return 255 * float(((one - other).abs() * torch.tensor(std).view(3, 1, 1)).max())


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b3", "swin_v2_t"])
def test_torchvisions_pixels_are_ours(name: str) -> None:
    preprocessing, theirs = own(found("torchvision", name)), models.get_model_weights(name)["DEFAULT"].transforms()
    for image in images():
        made = preprocessing.apply(preprocessing.from_image(image))[0]
        assert levels(made, theirs(image), preprocessing.std) < 1e-3


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_networks_whose_published_weights_transform_their_input_get_the_same_without_it(name: str) -> None:
    """torchvision builds them with `transform_input` for its weights, which tensors don't show."""
    arguments = {"weights": None, "init_weights": False, "aux_logits": True}
    published = models.get_model(name, transform_input=True, **arguments)
    plain, told = own(found("torchvision", name)), own(found("torchvision", name, transform_input=True))
    theirs = models.get_model_weights(name)["DEFAULT"].transforms()
    for image in images():
        wanted = published._transform_input(theirs(image)[None])
        raw = plain.from_image(image)
        assert torch.allclose(plain.apply(raw), wanted, atol=1e-5)
        assert torch.allclose(published._transform_input(told.apply(raw)), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "tf_efficientnet_lite0", "tf_efficientnetv2_b3", "dm_nfnet_f0"]
)
def test_timms_pixels_are_ours_and_so_are_those_of_the_exported_folder(name: str) -> None:
    preprocessing, config = own(found("timm", name)), timm.models.get_pretrained_cfg(name).to_dict()
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=config))
    exported = timm_config(name, {}, nn.Identity(), preprocessing)["pretrained_cfg"]
    again = create_transform(**resolve_data_config({}, pretrained_cfg=json.loads(json.dumps(exported))))
    for image in images():
        made = preprocessing.apply(preprocessing.from_image(image))[0]
        assert levels(made, theirs(image), preprocessing.std) < 1e-3
        assert levels(again(image), theirs(image), preprocessing.std) < 1e-3


@pytest.mark.parametrize("resize", [224, 225, 232, 255, 299, 301, 448])
def test_timm_cuts_the_exported_share_from_the_same_size(resize: int) -> None:
    preprocessing = own(found("timm", "resnet18")).model_copy(update={"resize": resize})
    share = timm_config("resnet18", {}, nn.Identity(), preprocessing)["pretrained_cfg"]["crop_pct"]
    assert math.floor(224 / share) == resize


@pytest.mark.parametrize(("size", "resize"), [([224, 160], 256), ([224, 224], [256, 300])])
def test_what_timm_can_not_cut_is_refused(size: list[int], resize: int | list[int]) -> None:
    preprocessing = own(found("timm", "resnet18")).model_copy(update={"size": size, "resize": resize})
    with pytest.raises(ValueError, match="timm can't resize"):
        timm_config("resnet18", {}, nn.Identity(), preprocessing)


def test_all_of_torchvision_and_nearly_all_of_timm_are_known() -> None:
    names = models.list_models(module=models)
    assert all(found("torchvision", name) is not None for name in names)
    unknown = [name for name in timm.list_models() if found("timm", name) is None]
    assert len(unknown) < 0.02 * len(timm.list_models())


@pytest.mark.parametrize(
    "name",
    [
        "deepseek_vit_412m",  # pads to a square
        "volo_d5_512",  # cuts more than there is
    ],
)
def test_what_a_request_can_not_say_is_unknown(name: str) -> None:
    assert found("timm", name) is None


def test_other_channels_have_none_and_another_size_is_not_cut() -> None:
    assert found("timm", "resnet18", channels=1, in_chans=1) is None
    small = found("timm", "vit_tiny_patch16_224", img_size=64)
    assert small is not None
    assert (small.size, small.resize, small.mean) == ([64, 64], None, [0.5, 0.5, 0.5])
    wide = found("torchvision", "vit_b_16", image_size=96)
    assert wide is not None
    assert (wide.size, wide.resize) == ([96, 96], None)
    windows = found("torchvision", "maxvit_t", input_size=[448, 448])
    assert windows is not None
    assert (windows.size, windows.resize) == ([448, 448], None)


@pytest.mark.parametrize(("side", "taken"), [(64, ([64, 64], None)), (224, ([224, 224], 256)), (32, ([224, 224], 256))])
def test_a_size_that_the_network_does_not_take_is_replaced(side: int, taken: tuple[Any, Any]) -> None:
    """The sections were found with 64 pixels. A network that doesn't take these either says nothing."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, 2))
    preprocessing = library_preprocessing(architecture_of("torchvision", "resnet18"), network)
    assert preprocessing is not None
    assert (preprocessing.size, preprocessing.resize) == taken


def test_a_network_of_another_size_than_its_published_weights_gets_its_own() -> None:
    request = LibraryRequest.model_validate({"library": "torchvision", "name": "vit_h_14"})
    network = blank(request)
    preprocessing = library_preprocessing(describe(request, network), network)
    assert preprocessing is not None
    assert (preprocessing.size, preprocessing.resize) == ([224, 224], None)


def test_a_student_has_none() -> None:
    architecture = architecture_of("timm", "resnet18")
    assert architecture.network is not None
    student = architecture.network.model_copy(update={"kept": [[0]]})
    assert preprocessing_of_weights(architecture.model_copy(update={"network": student})) is None


def test_an_inspection_finds_the_tagged_weights(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_file(timm.create_model("resnet18", num_classes=3).state_dict(), path)
    request = LibraryRequest.model_validate({"library": "timm", "name": "resnet18.tv_in1k"})
    preprocessing = inspect_teacher(read_teacher(path, request)).preprocessing
    assert preprocessing is not None
    assert (preprocessing.weights, preprocessing.resize, preprocessing.resampling) == ("tv_in1k", 256, "bilinear")
    save_file(torchvision.models.resnet18(num_classes=3).state_dict(), path)
    request = LibraryRequest.model_validate({"library": "torchvision", "name": "resnet18"})
    preprocessing = inspect_teacher(read_teacher(path, request)).preprocessing
    assert preprocessing is not None
    assert (preprocessing.weights, preprocessing.resize) == ("IMAGENET1K_V1", 256)
