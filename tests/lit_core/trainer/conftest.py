"""For the tests of whole jobs: a teacher, and latencies that are measured in earnest, but in few passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_core.measuring import cost
from lit_core.networks.families.resnet_cifar import ResNet
from lit_core.training import recipe
from tests.lit_core.trainer.test_training import stripes, teach


@pytest.fixture(autouse=True, scope="module")
def few_passes() -> Iterator[None]:
    """All passes would take half of the time of a job as short as these. Also in the jobs of a module's fixtures."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cost, "LATENCY_RUNS", cost.LEAST_RUNS)
        monkeypatch.setattr(cost, "LATENCY_WARM_UP", 1)
        yield


@pytest.fixture
def short_races(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of each candidate are enough where it does not matter which one wins."""
    monkeypatch.setattr(recipe, "LEAST_STEPS", 5)
    monkeypatch.setattr(recipe, "MOST_STEPS", 5)


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet20 of width 4 that knows the stripes."""
    torch.manual_seed(0)
    network = ResNet([3, 3, 3], 4, 1, 3, "A", "fc", "downsample")
    x, y = stripes()
    inputs = torch.from_numpy(x).float()[:, None] / 255
    inputs = (inputs - inputs.mean()) / inputs.std()
    teach(network, inputs, torch.from_numpy(y), epochs=6)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(network.state_dict(), path)
    return path
