"""A second thread only where layers do enough work for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_core.trainer.environment import LEAST_FLOPS_OF_LAYER, use_threads_that_pay
from tests.lit_core.trainer.test_methods import run


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_work_of_a_layer_decides() -> None:
    width = 64
    network = nn.Sequential(nn.Linear(width, width), nn.ReLU())
    sample = (torch.zeros(1, width),)
    enough = 2 * LEAST_FLOPS_OF_LAYER // (2 * width * width) + 1
    use_threads_that_pay(network, sample, enough)
    assert torch.get_num_threads() == 2
    use_threads_that_pay(network, sample, enough - 1)
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("two_threads")
def test_a_small_job_trains_on_one_thread_and_says_so(tmp_path: Path, teacher_file: Path) -> None:
    report = run(tmp_path / "job", teacher_file)
    assert (torch.get_num_threads(), report["environment"]["threads"]) == (1, "1")
