"""What a trainer frees, it has again without asking the system; beside a sharded teacher it gives it back."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from lit_core.trainer.allocator import keep_freed_memory
if changed:
    assert keep_freed_memory()
def step():
    for _ in range(8):
        blocks = [torch.ones(9 << 20) for _ in range(2)]
        del blocks
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


GAPS = """
import torch
from pathlib import Path
from lit_core.trainer.allocator import return_freed_memory
if changed:
    assert return_freed_memory()
def anonymous():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1])
def block():
    return torch.ones(7 << 20)
first = block()
del first  # what is freed once, glibc takes from its heap the next time
before, large, small = anonymous(), [], []
for _ in range(8):
    large.append(block())
    small.append(torch.ones(1 << 14))
del large
print(anonymous() - before)
"""


FORKED = """
import os, torch
for program in {programs!r}:
    for changed in (False, True):
        if os.fork() == 0:
            exec(program)
            os._exit(0)
        assert os.wait()[1] == 0
"""
"""Torch is loaded once for all, before any has an allocator of its own making."""


@pytest.fixture(scope="module")
def printed() -> dict[str, tuple[int, int]]:
    """What each program prints with the allocator as it is, and with the one that is changed."""
    programs = {"faults": FAULTS, "gaps": GAPS}
    code = FORKED.format(programs=[*programs.values()])
    found = subprocess.run([sys.executable, "-u", "-c", code], capture_output=True, text=True, timeout=120, check=True)
    numbers = [int(number) for number in found.stdout.split()]
    return {name: (numbers[2 * row], numbers[2 * row + 1]) for row, name in enumerate(programs)}


def test_a_step_takes_the_memory_of_the_one_before_it(printed: dict[str, tuple[int, int]]) -> None:
    left, kept = printed["faults"]
    # Of 16 blocks. Where they lie differs from run to run, so that one or two may be taken anew.
    assert 4 * kept < left


def test_beside_a_sharded_teacher_freed_blocks_leave_no_gaps(printed: dict[str, tuple[int, int]]) -> None:
    left, returned = printed["gaps"]
    assert returned < 30_000  # KiB: about one block
    assert left > 150_000
