"""A student whose first blocks are replayed puts out what it puts out by itself."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_core.networks.recorded import MOST_BYTES, RecordedPass, recorded_passes
from lit_core.networks.student import shortened, view_of
from tests.lit_core.networks.test_discovery import sectioned

RUNS: Counter[str] = Counter()


class Block(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.linear = name, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        RUNS[self.name] += 1
        return x + torch.tanh(self.linear(x))


class Network(nn.Module):
    """With a layer between the sections. `changes`: a layer changes in place what leaves a block."""

    def __init__(self, *, changes: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lower = nn.ModuleList(Block(f"lower {index}") for index in range(3))
        self.between = nn.Linear(6, 6)
        self.upper = nn.ModuleList(Block(f"upper {index}") for index in range(3))
        self.changes = changes

    def forward(self, x: Tensor) -> Tensor:
        for block in self.lower:
            x = block(x)
        x = self.between(x.mul_(1.5) if self.changes else x)
        for block in self.upper:
            x = block(x)
        return x


def made(**options: Any) -> Any:
    teacher = sectioned(Network(**options), torch.zeros(2, 6), ["lower", "upper"])
    teacher.freeze()
    return teacher


INPUTS = (torch.randn(8, 6, generator=torch.Generator().manual_seed(1)),)
KEPT_BYTES = 6 * INPUTS[0].nbytes
"""Of what leaves the blocks in a pass."""


@pytest.mark.parametrize("kept", [[[0, 1, 2], [0, 2]], [[1, 2], [0, 1, 2]], [[0, 2], [1]], [[0, 1, 2], [0, 1, 2]]])
@pytest.mark.parametrize("changes", [False, True])
def test_the_output_is_the_students(kept: list[list[int]], changes: bool) -> None:
    teacher = made(changes=changes)
    passed = RecordedPass(teacher, INPUTS, MOST_BYTES)
    wanted = shortened(teacher, kept).network.eval()(*INPUTS)
    for _ in range(2):
        view = view_of(teacher, kept)
        view.network.eval()
        assert torch.equal(passed.run(view), wanted)


def test_only_blocks_after_the_first_gap_are_run() -> None:
    teacher = made()
    passed = RecordedPass(teacher, INPUTS, MOST_BYTES)
    RUNS.clear()
    passed.run(view_of(teacher, [[0, 1, 2], [0, 2]]))
    assert RUNS == {"upper 2": 1}


def test_all_are_run_where_a_layer_changes_what_leaves_a_block() -> None:
    teacher = made(changes=True)
    passed = RecordedPass(teacher, INPUTS, MOST_BYTES)
    RUNS.clear()
    passed.run(view_of(teacher, [[0, 1, 2], [0, 2]]))
    assert sum(RUNS.values()) == 5


def test_all_are_run_where_there_is_too_much_to_keep() -> None:
    teacher = made()
    for most, runs in ((KEPT_BYTES, 1), (KEPT_BYTES - 1, 5)):
        passed = RecordedPass(teacher, INPUTS, most)
        RUNS.clear()
        passed.run(view_of(teacher, [[0, 1, 2], [0, 2]]))
        assert sum(RUNS.values()) == runs


def test_a_pass_with_too_much_to_keep_keeps_nothing_while_it_runs() -> None:
    teacher = made()
    outputs: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def count(_module: nn.Module, _args: Any, output: Tensor) -> None:
        outputs.append(weakref.ref(output))
        alive.append(sum(one() is not None for one in outputs))

    for block in (*teacher.sections[0], *teacher.sections[1]):
        block.register_forward_hook(count)
    RecordedPass(teacher, INPUTS, INPUTS[0].nbytes)
    # What goes into a block and what comes out of it.
    assert (len(alive), max(alive)) == (6, 2)


def test_passes_share_one_bound() -> None:
    passes = recorded_passes(made(), [INPUTS] * 3, 2 * KEPT_BYTES)
    assert [one.kept_bytes for one in passes] == [KEPT_BYTES, KEPT_BYTES, 0]


def test_a_view_has_the_teachers_blocks_and_leaves_the_teacher_as_it_is() -> None:
    teacher = made()
    view = view_of(teacher, [[0, 2], [0]])
    assert [len(section) for section in teacher.sections] == [3, 3]
    assert view.sections[0][1] is teacher.sections[0][2]
    RecordedPass(teacher, INPUTS, MOST_BYTES).run(view)
    assert torch.equal(teacher.network(*INPUTS), made().network(*INPUTS))
