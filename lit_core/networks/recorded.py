"""What leaves the teacher's blocks in one pass: a student need not run again what it has before its first gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_core.networks.block_selection import Inputs
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.watching import TensorVersion

Place = tuple[int, int]
"""Section and index of a block."""
MOST_BYTES = 256 << 20
"""Of what leaves the blocks, in all passes of one teacher. A pass that needs more than is left keeps nothing."""


def recorded_passes(
    teacher: SectionedNetwork, batches: Sequence[Inputs], most_bytes: int = MOST_BYTES
) -> list[RecordedPass]:
    """The teacher's pass over each batch. Together they keep at most `most_bytes` of what leaves the blocks.

    The teacher is in eval mode.
    """
    passes: list[RecordedPass] = []
    for inputs in batches:
        kept = sum(one.kept_bytes for one in passes)
        passes.append(RecordedPass(teacher, inputs, most_bytes - kept))
    return passes


class RecordedPass:
    """The teacher's pass over `inputs`, which keeps at most `most_bytes` of what leaves the blocks, also while it runs.

    `output` is the teacher's, as from its `run`.
    """

    @torch.no_grad()
    def __init__(self, teacher: SectionedNetwork, inputs: Inputs, most_bytes: int) -> None:
        self.inputs, self._most_bytes = inputs, most_bytes
        self._places = [(section, index) for section, own in enumerate(teacher.sections) for index in range(len(own))]
        self.output, self._outputs = self._recorded(teacher)

    @property
    def kept_bytes(self) -> int:
        return sum(output.nbytes for output in self._outputs.values())

    @torch.no_grad()
    def run(self, student: SectionedNetwork) -> Tensor:
        """The output of a student that has the teacher's weights, as from its own `run`. Its blocks before the gap are
        not run: they give what they gave in the teacher."""
        with ExitStack() as stack:
            for section, index in self._before_gap(student) if self._outputs else []:
                stack.enter_context(_giving(student.sections[section][index], self._outputs[section, index]))
            return student.run(*self.inputs)

    def _recorded(self, teacher: SectionedNetwork) -> tuple[Tensor, dict[Place, Tensor]]:
        """The teacher's output, and what left its blocks: nothing if they are not run in order, once each and from
        tensor to tensor, if a layer changes in place what leaves a block, and if there is too much to keep."""
        returned: list[tuple[Place, TensorVersion]] = []
        bytes_ = 0

        def record(place: Place) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                nonlocal bytes_
                if not isinstance(output, Tensor):
                    return
                bytes_ += output.nbytes
                if bytes_ <= self._most_bytes:
                    returned.append((place, TensorVersion.of(output)))
                else:
                    returned.clear()

            return hook

        handles = [
            teacher.sections[section][index].register_forward_hook(record((section, index)))
            for section, index in self._places
        ]
        try:
            taught = teacher.run(*self.inputs)
        finally:
            for handle in handles:
                handle.remove()
        in_order = [place for place, _ in returned] == self._places
        unchanged = all(version.is_current for _, version in returned)
        if not (in_order and unchanged):
            return taught, {}
        return taught, {place: version.tensor for place, version in returned}

    def _before_gap(self, student: SectionedNetwork) -> list[Place]:
        kept = {(section, index) for section, own in enumerate(student.kept_blocks) for index in own}
        gap = next((number for number, place in enumerate(self._places) if place not in kept), len(self._places))
        return self._places[:gap]


@contextmanager
def _giving(block: nn.Module, output: Tensor) -> Iterator[None]:
    """Meanwhile the block gives this output, whatever it is given."""
    own = vars(block).get("forward")

    def forward(*_args: Any, **_kwargs: Any) -> Tensor:
        return output

    block.forward = forward
    try:
        yield
    finally:
        del block.forward
        if own is not None:
            block.forward = own
