"""Networks that are built without weights, and read them from their file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lit_core.networks.families import family_of, library
from lit_core.networks.lazy_loading import load_from_file, shortened_from_file, unloaded_network
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_spec import Architecture, Library, LibraryRequest

DEIT = LibraryRequest(library=Library.TIMM, name="deit_tiny_patch16_224", kwargs={"depth": 3, "img_size": 64})
SWIN = LibraryRequest(
    library=Library.TIMM,
    name="swin_tiny_patch4_window7_224",
    kwargs={"img_size": 64, "depths": [1, 1, 3, 1], "embed_dim": 24, "window_size": 2},
)
MOBILE = LibraryRequest(library=Library.TORCHVISION, name="mobilenet_v3_small")


def described(request: LibraryRequest) -> Architecture:
    return library.describe(request, library.blank(request))


def whole(architecture: Architecture, folder: Path) -> tuple[SectionedNetwork, Path]:
    """A network with random weights and statistics, and its file."""
    torch.manual_seed(0)
    network = family_of(architecture).build(architecture)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
    path = folder / "teacher.safetensors"
    save_file({name: tensor.clone() for name, tensor in network.state_dict().items()}, path)
    return SectionedNetwork(network, family_of(architecture).layout(architecture)), path


def kept_of(network: SectionedNetwork) -> Sequence[Sequence[int]]:
    """The first block of each section, and the last but one, so that the block after it is left out."""
    return [sorted({0, max(len(section) - 2, 0)}) for section in network.sections]


@pytest.mark.parametrize("request_", [DEIT, SWIN, MOBILE], ids=lambda request: request.name)
def test_a_student_from_the_file_is_the_one_that_is_cut_from_the_teacher(
    request_: LibraryRequest, tmp_path: Path
) -> None:
    architecture = described(request_)
    teacher, path = whole(architecture, tmp_path)
    wanted = shortened(teacher, kept_of(teacher))
    made = shortened_from_file(architecture, path, kept_of(teacher))
    assert (made.layout, made.kept_blocks) == (wanted.layout, wanted.kept_blocks)
    assert list(made.network.state_dict()) == list(wanted.network.state_dict())
    # Also those that no file has, such as Swin's masks and positions.
    for one, other in zip(_tensors(made.network), _tensors(wanted.network), strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad == other.requires_grad
        # A checkpoint stores it with all the memory that it is a view of.
        assert one.untyped_storage().nbytes() == one.nbytes
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(made.network.eval()(x), wanted.network.eval()(x))


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def test_what_is_not_loaded_has_no_memory_for_parameters_but_all_its_buffers() -> None:
    network = unloaded_network(described(MOBILE))
    assert all(parameter.is_meta for parameter in network.parameters())
    assert not any(buffer.is_meta for buffer in network.buffers())
    # Networks that are built later have values again.
    assert not nn.Linear(2, 2).weight.is_meta


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight


def test_parameters_that_modules_share_are_shared_after_loading(tmp_path: Path) -> None:
    network, path = Tied(), tmp_path / "tied.safetensors"
    wanted = {name: tensor.clone() + 1 for name, tensor in network.state_dict().items()}
    save_file(wanted, path)
    network.other.weight.requires_grad_(False)
    load_from_file(network, path, torch.device("cpu"))
    assert network.one.weight is network.other.weight
    assert torch.equal(network.one.weight, wanted["one.weight"])
    assert not network.one.weight.requires_grad
    assert network.one.bias.requires_grad


def test_a_file_without_one_of_the_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, path)
    with pytest.raises(Exception, match="bias"):
        load_from_file(nn.Linear(2, 2), path, torch.device("cpu"))
