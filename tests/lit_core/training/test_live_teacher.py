"""What the teacher's program tells the student, in each precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_core.networks.features import FeatureReader
from lit_core.networks.layout import Layout
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.batch import Batch
from lit_core.training.taught import LiveTeacher, Needs
from lit_core.training.teacher_precision import measure_teacher_precision
from lit_spec import Output, Precision
from tests.lit_core.networks.test_inference import Block, X, sectioned

BATCH = Batch(X, torch.zeros(len(X[0]), dtype=torch.long))


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_a_teacher_in_bfloat16_gives_float32_that_is_near() -> None:
    network = sectioned(Block(), Block())
    needs = Needs(trace=True, features=FeatureReader(Output.LOGITS))
    exact, near = (LiveTeacher(network, needs, precision)(BATCH) for precision in (None, Precision.BFLOAT16))
    pairs = [
        (near.output, exact.output),
        (near.features, exact.features),
        *zip(near.trace.inputs, exact.trace.inputs, strict=True),
        *zip(near.trace.outputs, exact.trace.outputs, strict=True),
    ]
    for found, wanted in pairs:
        assert found.dtype == torch.float32
        assert 1e-5 < distance(found, wanted) < 0.05


def test_a_teacher_may_stay_in_float32_while_the_student_does_not() -> None:
    network = sectioned(Block(), Block())
    exact = LiveTeacher(network, Needs(trace=True))(BATCH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = LiveTeacher(network, Needs(trace=True), Precision.FLOAT32)(BATCH)
        half = LiveTeacher(network, Needs(trace=True))(BATCH)
    assert distance(found.output, exact.output) < 1e-5
    assert half.output.dtype == torch.bfloat16


class Masked(nn.Module):
    """Adds a mask that each block gets beside the representation, in the precision of the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.mask, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(Gated() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask(x)
        for block in self.blocks:
            x = block(x, mask)
        logits: Tensor = self.head(x)
        return logits


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.linear(x) + mask


def test_what_blocks_get_beside_the_representation_is_float32_too() -> None:
    network = SectionedNetwork(Masked(), Layout(("mask",), (("blocks.0", "blocks.1"),), ("head",)))
    network.freeze()
    batch = Batch((torch.randn(2, 6),), torch.zeros(2, dtype=torch.long))
    trace = LiveTeacher(network, Needs(trace=True), Precision.BFLOAT16)(batch).trace
    assert {one.args[0].dtype for one in trace.extra_arguments[0]} == {torch.float32}


def test_the_loss_of_precision_is_measured() -> None:
    network = sectioned(Block(), Block())
    report = measure_teacher_precision(network, [(X, BATCH.labels)] * 2, Precision.BFLOAT16)
    assert report.samples == 2 * len(X[0])
    assert report.agreement == pytest.approx(100, abs=50)
    assert all(1e-5 < error < 0.05 for error in report.representation_errors)
    assert len(report.representation_errors) == 2
    same = measure_teacher_precision(network, [(X, BATCH.labels)], Precision.FLOAT32)
    assert (same.agreement, same.representation_errors) == (100, [0, 0])
