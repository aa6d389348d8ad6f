"""What a request may say of a library's network."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lit_core.families.library import create
from lit_core.spec import Library, LibraryRequest, SpecError
from lit_core.spec.catalogue import evenly, find_entry, shares


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


def test_blocks_are_shared_as_the_teachers_are() -> None:
    assert shares([3, 4, 6, 3], 4) == [1, 1, 1, 1]
    assert shares([3, 4, 6, 3], 16) == [3, 4, 6, 3]
    assert all(sum(shares([3, 4, 23, 3], depth)) == depth for depth in range(4, 34))
    assert evenly(6, 2) == [0, 3]


def test_the_catalogue_says_what_the_library_builds() -> None:
    from lit_core.families.library import describe
    from lit_core.measure import count_parameters

    network = create(Library.TIMM, "resnetv2_50", {})
    found = describe(LibraryRequest(library=Library.TIMM, name="resnetv2_50"), network).network
    entry = find_entry("timm", "resnetv2_50")
    assert entry is not None
    assert found is not None
    assert (entry.sections, entry.size, entry.parameters) == (found.sections, found.size, count_parameters(network))
