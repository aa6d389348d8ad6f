"""What a trainer frees, it has again without asking the system; beside a sharded teacher it gives it back."""

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


GAPS = """
import sys, torch
from pathlib import Path
from lit_core.trainer.allocator import return_freed_memory
if sys.argv[1] == "return":
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


def printed(program: str, how: str) -> int:
    found = subprocess.run(
        [sys.executable, "-c", program, how], capture_output=True, text=True, timeout=120, check=True
    )
    return int(found.stdout)


def test_a_step_takes_the_memory_of_the_one_before_it() -> None:
    # Where the blocks lie differs from run to run, so that one of them may be taken anew.
    assert 8 * printed(PROGRAM, "keep") < printed(PROGRAM, "leave")


def test_beside_a_sharded_teacher_freed_blocks_leave_no_gaps() -> None:
    assert printed(GAPS, "return") < 30_000  # KiB: about one block
    assert printed(GAPS, "leave") > 150_000
