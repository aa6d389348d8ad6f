"""What leaves the teacher's blocks in one pass: a student need not run again what it has before its first gap."""

from __future__ import annotations

from collections.abc import Sequence
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


def recorded_passes(teacher: SectionedNetwork, batches: Sequence[Inputs]) -> list[RecordedPass]:
    """The teacher's pass over each batch. Together they keep at most `MOST_BYTES`. The teacher is in eval mode."""
    passes: list[RecordedPass] = []
    for inputs in batches:
        kept = sum(one.kept_bytes for one in passes)
        passes.append(RecordedPass(teacher, inputs, MOST_BYTES - kept))
    return passes


class RecordedPass:
    """The teacher's pass over `inputs`, which keeps at most `most_bytes`, also while it runs."""

    @torch.no_grad()
    def __init__(self, teacher: SectionedNetwork, inputs: Inputs, most_bytes: int) -> None:
        self.inputs, self._most_bytes = inputs, most_bytes
        self._places = [(section, index) for section, own in enumerate(teacher.sections) for index in range(len(own))]
        self._outputs = self._recorded(teacher)

    @property
    def kept_bytes(self) -> int:
        return sum(output.nbytes for output in self._outputs.values())

    @torch.no_grad()
    def run(self, student: SectionedNetwork) -> Tensor:
        """The output of a student that has the teacher's weights, as from its own `run`. The student is changed: its
        blocks before the gap give what they gave in the teacher."""
        for section, index in self._before_gap(student) if self._outputs else []:
            _give(student.sections[section][index], self._outputs[section, index])
        return student.run(*self.inputs)

    def _recorded(self, teacher: SectionedNetwork) -> dict[Place, Tensor]:
        """Nothing if the blocks are not run in order, once each and from tensor to tensor, if a layer changes in place
        what leaves a block, and if there is too much to keep."""
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
            teacher.network(*self.inputs)
        finally:
            for handle in handles:
                handle.remove()
        in_order = [place for place, _ in returned] == self._places
        unchanged = all(version.is_current for _, version in returned)
        if not (in_order and unchanged):
            return {}
        return {place: version.tensor for place, version in returned}

    def _before_gap(self, student: SectionedNetwork) -> list[Place]:
        kept = {(section, index) for section, own in enumerate(student.kept_blocks) for index in own}
        gap = next((number for number, place in enumerate(self._places) if place not in kept), len(self._places))
        return self._places[:gap]


def _give(block: nn.Module, output: Tensor) -> None:
    def forward(*_args: Any, **_kwargs: Any) -> Tensor:
        return output

    block.forward = forward
