"""What a trainer frees, it has again without asking the system."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys, torch
from lit_core.trainer.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    for _ in range(8):
        blocks = [torch.ones(1 << 24) for _ in range(2)]
        del blocks
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=120, check=True
    )
    return int(found.stdout)


def test_a_step_takes_the_memory_of_the_one_before_it() -> None:
    # Where the blocks lie differs from run to run, so that one of them may be taken anew.
    assert 8 * page_faults("keep") < page_faults("leave")
