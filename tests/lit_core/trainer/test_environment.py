"""What every trainer asks of torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.profiler import profile
from torch.utils import deterministic

from lit_core.trainer.environment import prepare_torch
from lit_spec.trainer.run import TrainerRun


@pytest.fixture
def as_torch_begins() -> Iterator[None]:
    """The settings are those of the whole process, and jobs in it may have changed them."""
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(False)
    deterministic.fill_uninitialized_memory = True  # type: ignore[assignment]
    yield
    torch.use_deterministic_algorithms(before[0])
    deterministic.fill_uninitialized_memory = before[1]


@pytest.mark.usefixtures("as_torch_begins")
def test_new_memory_is_not_filled_before_it_is_written() -> None:
    prepare_torch(TrainerRun(device="cpu", threads=torch.get_num_threads()))
    assert torch.are_deterministic_algorithms_enabled()
    images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    with profile() as profiled:
        network(images).clone().flatten(1)
    names = [event.key for event in profiled.key_averages()]
    assert "aten::empty" in names
    assert "aten::fill_" not in names, names
