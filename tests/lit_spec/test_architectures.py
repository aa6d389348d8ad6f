"""What a request may say of a library's network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lit_core.networks.families.library import create
from lit_spec import Architecture, JobRequest, Library, LibraryRequest, SpecError
from lit_spec.networks.catalogue import find_entry, nearest
from lit_spec.networks.students import evenly, shares
from lit_spec.requests.resolve import with_preset


@pytest.mark.parametrize(
    "name", ["pretrained", "checkpoint_path", "weights", "pretrained_cfg", "cache_dir", "features_only"]
)
def test_arguments_that_read_or_fetch_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} doesn't"):
        LibraryRequest(library=Library.TIMM, name="resnet18", kwargs={name: True})


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18", "local-dir:/tmp", "resnet-18", ""])
@pytest.mark.parametrize("library", list(Library))
def test_only_names_of_the_library_are_built(library: Library, name: str) -> None:
    with pytest.raises(SpecError, match=r"architecture\.name"):
        create(library, name, {})


def test_arguments_that_the_network_does_not_take_are_told() -> None:
    with pytest.raises(SpecError, match=r"architecture\.kwargs.*nonsense"):
        create(Library.TORCHVISION, "resnet18", {"nonsense": 1})


def test_near_names_begin_alike_or_look_alike() -> None:
    names = ["convnext_tiny", "resnet18", "resnet50", "resnet50_gn", "resnetv2_50", "vit_tiny"]
    assert nearest("resnet50_gn_in1k", names)[0] == "resnet50_gn"
    assert nearest("resnet5O", names)[0] == "resnet50"
    assert nearest("VIT", names)[0] == "vit_tiny"
    assert nearest("0000", names) == []


def test_whoever_asks_for_a_ratio_that_was_shown_gets_its_student() -> None:
    entry = find_entry("timm", "vit_tiny_patch16_224")
    assert entry is not None
    for shown in entry.students[:-1]:
        least = min(
            (one for one in entry.students if entry.parameters >= shown.parameters_ratio * one.parameters),
            key=lambda one: -one.parameters,
        )
        assert least == shown


def test_blocks_are_shared_as_the_teachers_are() -> None:
    assert shares([3, 4, 6, 3], 4) == [1, 1, 1, 1]
    assert shares([3, 4, 6, 3], 16) == [3, 4, 6, 3]
    assert all(sum(shares([3, 4, 23, 3], depth)) == depth for depth in range(4, 34))
    assert evenly(6, 2) == [0, 3]


def test_the_catalogue_says_what_the_library_builds() -> None:
    from lit_core.measuring.cost import count_parameters
    from lit_core.networks.families.library import describe

    network = create(Library.TIMM, "resnetv2_50", {})
    found = describe(LibraryRequest(library=Library.TIMM, name="resnetv2_50"), network).network
    entry = find_entry("timm", "resnetv2_50")
    assert entry is not None
    assert found is not None
    assert (entry.sections, entry.size, entry.parameters) == (found.sections, found.size, count_parameters(network))


@pytest.mark.parametrize(
    ("normalisation", "schedule", "optimizer", "rates"),
    [
        ("other", {}, "adam", (1e-3, 1e-4)),
        ("other", {"lit": {"epochs": 3}}, "adam", (1e-3, 1e-4)),
        ("batch", {}, "sgd", (0.1, 0.01)),
        # What names a rate or an optimizer is taken at its word.
        ("other", {"lit": {"learning_rate": 0.05}}, "sgd", (0.05, 0.01)),
        ("other", {"optimizer": "sgd"}, "sgd", (0.1, 0.01)),
    ],
)
def test_networks_without_batch_norm_have_rates_of_their_own(
    normalisation: str, schedule: dict[str, Any], optimizer: str, rates: tuple[float, float]
) -> None:
    teacher = Architecture(
        family="timm", depth=4, blocks=[2, 2], channels=1, classes=10, options={"normalisation": normalisation}
    )
    request = JobRequest.model_validate(
        {"teacher": "upl_a", "dataset": {"builtin": "digits"}, "student": {"blocks": [1, 1]}, "schedule": schedule}
    )
    found = with_preset(request, teacher).schedule
    assert (found.optimizer, found.lit.learning_rate, found.fine_tune.learning_rate) == (optimizer, *rates)
    assert found.weight_decay == (0 if optimizer == "adam" else 1e-4)


def test_the_catalogue_counts_weights_that_blocks_share_once() -> None:
    """CoaT's blocks share their position encodings with each other."""
    from lit_core.measuring.cost import count_parameters
    from lit_core.networks.layout import Layout
    from lit_core.networks.surgery import cut

    entry = find_entry("timm", "coat_lite_tiny")
    assert entry is not None
    least = entry.students[0]
    network = create(Library.TIMM, "coat_lite_tiny", {})
    cut(network, Layout((), tuple(map(tuple, entry.sections)), ()), [[0] for _ in entry.sections])
    assert least.parameters == count_parameters(network)


def test_the_catalogue_shows_the_flops_that_a_student_has() -> None:
    from lit_core.measuring.cost import flops
    from lit_core.networks.layout import Layout
    from lit_core.networks.surgery import cut

    entry = find_entry("timm", "tf_efficientnet_lite0")
    assert entry is not None
    assert entry.size is not None
    network = create(Library.TIMM, "tf_efficientnet_lite0", {}).eval()
    sample = (torch.zeros(1, 3, *entry.size),)
    assert entry.students[-1].flops == flops(network, sample)
    cut(network, Layout((), tuple(map(tuple, entry.sections)), ()), [[0] for _ in entry.sections])
    assert entry.students[0].flops == flops(network, sample)
