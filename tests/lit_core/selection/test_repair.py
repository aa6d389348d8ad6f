"""The repair of a student before its training, however its blocks were chosen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lit_core.networks.block_selection import Selection
from lit_core.networks.features import FeatureReader
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.selection import repair
from lit_core.selection.repair import Repair, with_repair
from lit_spec import Output
from tests.lit_core.networks.test_discovery import Mine, sectioned
from tests.lit_core.networks.test_shift import Convolutions
from tests.lit_core.selection.test_recovery import TwoSections, samples, teacher


def test_the_repair_brings_the_student_closer_on_samples_that_it_has_not_seen() -> None:
    # These strengths scale the last bias, so no shift applies.
    network, kept = teacher([0.7, 0.7, 0.7], [0.7, 0.7, 0.7]), [[0, 2], [0, 1]]
    found = with_repair(Selection(kept), network, samples(8))
    student = shortened(network, kept)
    others = (torch.randn(256, 3, generator=torch.Generator().manual_seed(5)),)
    elsewhere = Repair(network, [others], Output.LOGITS)
    before = elsewhere.damage_of(student)
    assert found.repaired is not None
    student.network.load_state_dict(found.repaired)
    assert elsewhere.damage_of(student) < 0.9 * before


def test_the_same_student_comes_out_again_and_nothing_else_is_drawn() -> None:
    network = teacher([1.0, 1.0], [1.0, 1.0])
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found = with_repair(Selection([[0, 1], [0]]), network, samples())
        drawn = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(drawn, torch.rand(1))
        assert found.repaired is not None
        states.append(found.repaired)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_network_whose_blocks_are_fixed_is_not_repaired() -> None:
    fixed = TwoSections([1.0, 1.0], [1.0, 1.0])
    fixed.requires_grad_(False)
    fixed.head.requires_grad_(True)
    network = sectioned(fixed, torch.zeros(2, 3), ["lower", "upper"])
    assert with_repair(Selection([[0, 1], [0]]), network, samples()).repaired is None


def test_a_repair_that_does_not_help_is_not_kept() -> None:
    """The whole teacher has nothing to be repaired."""
    found = with_repair(Selection([[0, 1], [0, 1]]), teacher([1.0, 1.0], [1.0, 1.0]), samples())
    assert found == Selection([[0, 1], [0, 1]])


def test_steps_that_do_harm_leave_the_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_core.selection.repair.REPAIR_RATE", 10.0)
    network, kept = sectioned(Convolutions("residual"), torch.zeros(2, 3, 6, 6), ["layers"]), [[0, 3]]
    generator = torch.Generator().manual_seed(1)
    repair = Repair(network, [(torch.randn(16, 3, 6, 6, generator=generator),) for _ in range(4)], Output.LOGITS)
    shifted, student = shortened(network, kept), shortened(network, kept)
    before = repair.damage_of(student)
    damage = repair._shift(shifted, before)
    assert damage < before
    assert repair.repair(student, before)
    assert repair.damage_of(student) == damage
    assert_close(student.network.state_dict(), shifted.network.state_dict(), rtol=0, atol=0)


def test_what_chose_the_blocks_stays_in_the_selection() -> None:
    damages: list[list[float | None]] = [[0.1, 0.2], [0.3, 0.4]]
    found = with_repair(Selection([[1], [0, 1]], damages=damages), teacher([1.0, 1.0], [1.0, 1.0]), samples())
    assert (found.kept_blocks, found.damages) == ([[1], [0, 1]], damages)


def test_blocks_with_arguments_of_their_own_and_several_inputs() -> None:
    class Added(Mine):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x + y)

    torch.manual_seed(0)
    network = SectionedNetwork(Added(), sectioned(Mine(), torch.zeros(2, 3), ["layers"]).layout)
    network.freeze()
    found = with_repair(Selection([[0, 2]]), network, [(torch.randn(8, 3), torch.randn(8, 3))])
    assert found.repaired is not None


def test_without_data_there_is_no_repair() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        with_repair(Selection([[0], [0]]), teacher([1.0, 1.0], [1.0, 1.0]), [])


def test_batches_are_measured_together_as_long_as_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, network = samples(6), teacher([0.5, 1.0], [0.5, 1.0])
    sizes = [len(one.inputs[0]) for one in Repair(network, batches, Output.LOGITS)._passes]
    assert sizes == [64, 32]
    monkeypatch.setattr(repair, "BYTES_AT_ONCE", 2 * batches[0][0].nbytes + 1)
    sizes = [len(one.inputs[0]) for one in Repair(network, batches, Output.LOGITS)._passes]
    assert sizes == [32, 32, 32]


def test_what_is_kept_is_bounded_and_no_more_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, network = samples(6), teacher([0.5, 1.0], [0.5, 1.0])
    asked: list[int] = []

    def given() -> Iterator[tuple[Tensor, ...]]:
        for number, batch in enumerate(batches):
            asked.append(number)
            yield batch

    monkeypatch.setattr(repair, "MOST_BYTES", 2 * batches[0][0].nbytes)
    kept = Repair(network, given(), Output.LOGITS)
    assert len(kept.batches) == 2
    assert asked == [0, 1, 2]
    student = shortened(network, [[0], [0]])
    before = kept.damage_of(student)
    assert kept.repair(student, before)
    assert kept.damage_of(student) < before
    monkeypatch.setattr(repair, "MOST_BYTES", 1)
    assert len(Repair(network, batches, Output.LOGITS).batches) == 1


def test_what_the_teacher_makes_of_the_batches_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = teacher([0.5, 1.0], [0.5, 1.0])
    kept = Repair(network, samples(6), Output.LOGITS)
    reader = FeatureReader(Output.LOGITS)
    lessons = list(kept._lessons(reader))
    assert [len(batch.labels) for batch, _ in lessons] == [16] * 6
    monkeypatch.setattr(repair, "MOST_BYTES", lessons[0][1].output.nbytes + lessons[0][1].features.nbytes + 1)
    assert len(list(kept._lessons(reader))) == 2


def test_features_with_another_first_axis_than_the_samples() -> None:
    class Recurrent(Mine):
        """Its last layer gets what a recurrent layer puts out for its one direction, (1, B, F)."""

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x) + self.token
            for layer, bias in zip(self.layers, self.biases(), strict=True):
                x = layer(x, 0.5, bias=bias)
            logits: Tensor = self.head(x[None]).squeeze(0)
            return logits

    torch.manual_seed(0)
    network = SectionedNetwork(Recurrent(), sectioned(Mine(), torch.zeros(2, 3), ["layers"]).layout)
    network.freeze()
    batches = [(torch.randn(8, 3),) for _ in range(3)]
    lessons = list(Repair(network, batches, Output.LOGITS)._lessons(FeatureReader(Output.LOGITS)))
    assert [taught.features.shape[:2] for _, taught in lessons] == [(1, 8)] * 3
    assert with_repair(Selection([[0, 2]]), network, batches).repaired is not None


def test_one_batch_alone_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "BYTES_AT_ONCE", 1)
    batches = samples(2)
    passes = Repair(teacher([0.5, 1.0], [0.5, 1.0]), batches, Output.LOGITS)._passes
    assert [one.inputs[0].data_ptr() for one in passes] == [batch[0].data_ptr() for batch in batches]
