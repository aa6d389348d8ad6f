"""Checkpoints of torchvision's and timm's networks: named, and recognised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_core.model import save_weights
from lit_core.networks.teacher import TeacherError, build_teacher, inspect_teacher, read_teacher
from lit_spec import LibraryRequest


def named(library: str, name: str, **more: Any) -> LibraryRequest:
    return LibraryRequest.model_validate({"library": library, "name": name, **more})


def saved(folder: Path, state: dict[str, Tensor]) -> Path:
    path = folder / "teacher.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def test_a_fine_tuned_network_is_rebuilt_to_the_last_tensor(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=7).eval()
    path = saved(tmp_path, network.state_dict())
    teacher = read_teacher(path, named("torchvision", "resnet18"))
    architecture = inspect_teacher(teacher).architecture
    assert (architecture.blocks, architecture.classes, architecture.channels) == ([2, 2, 2, 2], 7, 3)
    assert architecture.network is not None
    assert architecture.network.kwargs == {"num_classes": 7}
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(build_teacher(architecture, path).network.eval()(x), network(x))


def test_channels_of_timm_are_read_off_the_stem(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", num_classes=3, in_chans=5)
    found = read_teacher(saved(tmp_path, network.state_dict()), named("timm", "resnet18")).recognised.architecture
    assert (found.channels, found.classes) == (5, 3)


def test_a_network_that_nobody_named_is_proposed(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=7).state_dict()
    with pytest.raises(TeacherError) as proposed:
        read_teacher(saved(tmp_path, state))
    assert str(proposed.value) == (
        "this checkpoint has the tensors of torchvision/resnet18, timm/resnet18, timm/resnetblur18: give the one that "
        "it is as architecture"
    )
    assert proposed.value.field == "architecture"


def test_of_many_networks_with_the_same_names_those_of_the_same_size_are_proposed(tmp_path: Path) -> None:
    state = timm.create_model("vit_tiny_patch16_224", num_classes=4).state_dict()
    with pytest.raises(TeacherError) as proposed:
        read_teacher(saved(tmp_path, state))
    for name in ("timm/deit_tiny_patch16_224", "timm/vit_tiny_patch16_224"):
        assert name in str(proposed.value)
    assert "base" not in str(proposed.value)


def test_what_does_not_fit_is_told_with_what_would(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    with pytest.raises(
        TeacherError, match=r"looks like torchvision's resnet34, but missing: layer1\.2\.conv1"
    ) as named34:
        read_teacher(saved(tmp_path, state), named("torchvision", "resnet34"))
    assert "it has the tensors of torchvision/resnet18" in str(named34.value)
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 5, 5)
    with pytest.raises(TeacherError, match=r"of another shape: layer1\.0\.conv1\.weight has \[64, 64, 5, 5\]") as alone:
        read_teacher(saved(tmp_path, state), named("torchvision", "resnet18"))
    assert "has the tensors of" not in str(alone.value)
    assert "as architecture.kwargs; if layers were changed otherwise, compress the network in Python" in str(
        alone.value
    )


def test_sections_that_are_none_are_told_and_the_same_network_is_not_proposed(tmp_path: Path) -> None:
    path = saved(tmp_path, torchvision.models.resnet18().state_dict())
    with pytest.raises(TeacherError, match="there is no module 'layer9'") as failure:
        read_teacher(path, named("torchvision", "resnet18", sections=["layer9"]))
    assert "torchvision's resnet18" not in str(failure.value).partition("layer9")[2]
    found = read_teacher(path, named("torchvision", "resnet18", sections=["layer1", "layer2"]))
    assert found.recognised.architecture.blocks == [2, 2]


def test_modules_that_are_used_twice_are_saved(tmp_path: Path) -> None:
    # timm's CoaT has some.
    shared = nn.Linear(2, 2)
    save_weights(nn.ModuleList([shared, shared]), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert torch.equal(state["0.weight"], state["1.weight"])


def test_sections_that_leave_nothing_out_are_none(tmp_path: Path) -> None:
    path = saved(tmp_path, torchvision.models.resnet18().state_dict())
    with pytest.raises(TeacherError, match="only one block") as failure:
        read_teacher(path, named("torchvision", "resnet18", sections=[["layer1.0"], ["layer2.1"]]))
    assert failure.value.field == "architecture.sections"


@pytest.mark.parametrize(
    ("library", "name", "kwargs", "field", "said"),
    [
        ("timm", "resnet50", {"cardinality": 0}, "architecture.kwargs", "ValueError: groups must be"),
        ("timm", "vit_tiny_patch16_224", {"num_heads": 0}, "architecture.kwargs", "ZeroDivisionError"),
        ("timm", "vit_tiny_patch16_224", {"embed_dim": -12}, "architecture.kwargs", "negative"),
        ("timm", "resnet18", {"in_chans": "three"}, "architecture.kwargs", "TypeError"),
        ("timm", "resnet18", {"unheard_of": 1}, "architecture.kwargs", "unexpected keyword argument 'unheard_of'"),
        ("torchvision", "resnet18", {"width_per_group": -1}, "architecture.kwargs", "resnet18"),
        ("timm", "resnet18.a9_in9k", {}, "architecture.name", r"resnet18\.a\d_in1k"),
        ("timm", "resnet5O", {}, "architecture.name", "did you mean resnet50"),
    ],
)
def test_what_a_library_does_not_take_is_told_of_the_request(
    tmp_path: Path, library: str, name: str, kwargs: dict[str, Any], field: str, said: str
) -> None:
    path = saved(tmp_path, {"a": torch.zeros(1)})
    with pytest.raises(TeacherError, match=said) as failure:
        read_teacher(path, named(library, name, kwargs=kwargs))
    assert failure.value.field == field


@pytest.mark.parametrize(
    "name", ["resnet18", "eva02_tiny_patch14_224", "vit_tiny_patch16_224.augreg_in21k", "mixer_b16_224.goog_in21k"]
)
def test_the_number_of_classes_is_read_whatever_the_librarys_default(tmp_path: Path, name: str) -> None:
    state = timm.create_model(name.partition(".")[0], num_classes=7).state_dict()
    found = read_teacher(saved(tmp_path, state), named("timm", name))
    assert found.recognised.architecture.classes == 7
