"""What every trainer asks of torch."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import torch
from torch.profiler import profile
from lit_core.trainer.environment import prepare_torch
from lit_spec.trainer.run import TrainerRun

prepare_torch(TrainerRun(device="cpu", threads=1))
assert torch.are_deterministic_algorithms_enabled()
images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
with profile() as profiled:
    network(images).clone().flatten(1)
names = [event.key for event in profiled.key_averages()]
assert "aten::empty" in names
assert "aten::fill_" not in names, names
"""


def test_new_memory_is_not_filled_before_it_is_written() -> None:
    """In a process of its own, because the settings are those of the whole process."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
