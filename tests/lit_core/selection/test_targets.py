"""Which blocks a student keeps so that it reaches its target."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lit_core.measuring.cost import count_parameters, flops
from lit_core.networks.layout import Layout
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.selection.blocks import AllowedDrop, Budget, Unreachable, select_blocks
from lit_core.selection.targets import Measurements, select_for_target
from lit_spec import Precision, Select, SpecError, Target
from lit_spec.networks.students import BlockCosts
from tests.lit_core.networks.test_discovery import Mine, Residual, sectioned


def lost(_network: nn.Module) -> float:
    raise AssertionError("only max_accuracy_drop measures accuracy")


MEASUREMENTS = Measurements(lambda batch: (torch.zeros(batch, 3),), Precision.FLOAT32, lost)


@pytest.fixture
def teacher() -> SectionedNetwork:
    """Six blocks, of which the third and the last change their representation most."""
    torch.manual_seed(0)
    network = Mine(6)
    with torch.no_grad():
        for number, layer in enumerate(network.layers):
            assert isinstance(layer, Residual)
            layer.second.weight.mul_({2: 10.0, 5: 20.0}.get(number, 0.1))
    return sectioned(network, torch.randn(4, 3), ["layers"])


INPUTS = [(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),)]


def test_a_budget_counts_the_blocks_that_are_chosen(teacher: SectionedNetwork) -> None:
    """The last block costs as much as all others."""
    costs = BlockCosts(total=1000, blocks=[[100, 100, 100, 100, 100, 500]])
    budget = Budget(costs, most=500)
    assert select_blocks(teacher, budget, Select.FIRST, ()).kept_blocks == [[0, 1, 2, 3, 4]]
    # Its representation changes most, so it stays, until nothing else can go.
    assert select_blocks(teacher, budget, Select.IMPORTANCE, INPUTS).kept_blocks == [[5]]
    with pytest.raises(Unreachable) as failure:
        select_blocks(teacher, Budget(costs, most=400), Select.IMPORTANCE, INPUTS)
    assert failure.value.nearest == 500


@pytest.mark.parametrize(
    ("target", "unit"),
    [({"flops_ratio": 1.5}, "FLOPs"), ({"parameters_ratio": 1.5}, "parameters"), ({"size_mb": 0.0013}, "parameters")],
)
def test_what_is_expected_is_what_the_student_has(
    teacher: SectionedNetwork, target: dict[str, float], unit: str
) -> None:
    asked = Target.model_validate(target)
    chosen = select_for_target(teacher, asked, Select.FIRST, (), MEASUREMENTS, "target")
    student = shortened(teacher, chosen.kept_blocks).network
    sample = MEASUREMENTS.sample(1)
    has = {"FLOPs": flops(student, sample), "parameters": count_parameters(student)}
    found = chosen.target
    assert found is not None
    assert (found.unit, found.expected) == (unit, has[unit])
    assert asked.reached(int(found.teacher), has[unit]) >= asked.value or unit == "parameters"
    assert has[unit] <= asked.most(int(found.teacher))
    # With another block it would not.
    deeper = shortened(teacher, [list(range(len(chosen.kept_blocks[0]) + 1))]).network
    more = {"FLOPs": flops(deeper, sample), "parameters": count_parameters(deeper)}
    assert more[unit] > asked.most(int(found.teacher))


def test_a_target_that_no_student_reaches_is_refused_with_what_one_does(teacher: SectionedNetwork) -> None:
    least = count_parameters(shortened(teacher, [[0]]).network)
    most = count_parameters(teacher.network) / least
    with pytest.raises(SpecError, match=rf"^student.target: .* reaches only {int(most * 1000) / 1000:g}: give at most"):
        select_for_target(
            teacher, Target(parameters_ratio=most + 0.1), Select.FIRST, (), MEASUREMENTS, "student.target"
        )
    with pytest.raises(SpecError, match="the teacher itself has only"):
        select_for_target(teacher, Target(latency_ms=1e6), Select.FIRST, (), MEASUREMENTS, "target")


class Adds(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def test_a_target_of_which_the_teacher_has_nothing_is_refused() -> None:
    teacher = SectionedNetwork(nn.Sequential(Adds(), Adds(), Adds()), Layout((), (("0", "1"),), ()))
    with pytest.raises(SpecError, match="asks for flops_ratio 2, but none are counted in the teacher"):
        select_for_target(teacher, Target(flops_ratio=2), Select.EVEN, (), MEASUREMENTS, "target")


def test_the_last_student_before_too_much_is_lost_is_taken(teacher: SectionedNetwork) -> None:
    """A shallower one that happens to lose less again is not looked at."""
    drops = {5: 0.5, 4: 1.0, 3: 2.5, 2: 0.0, 1: 40.0}

    def drop(network: nn.Module) -> float:
        return drops[len([module for module in network.modules() if isinstance(module, Residual)])]

    measurements = Measurements(MEASUREMENTS.sample, Precision.FLOAT32, drop)

    def chosen(most: float) -> list[list[int]]:
        target = Target(max_accuracy_drop=most)
        return select_for_target(teacher, target, Select.FIRST, (), measurements, "student.target").kept_blocks

    assert chosen(2) == [[0, 1, 2, 3]]
    assert chosen(50) == [[0]]
    with pytest.raises(SpecError, match=r"untrained student of one block less loses 0\.50 points: raise it"):
        chosen(0.4)
    drops[5] = math.nan
    with pytest.raises(SpecError, match="outputs of the untrained student of one block less are not finite"):
        chosen(2)


def test_a_rule_is_followed_down_to_the_shallowest(teacher: SectionedNetwork) -> None:
    seen: list[list[list[int]]] = []

    def drop(kept_blocks: list[list[int]]) -> float:
        seen.append(kept_blocks)
        return 0.0

    assert select_blocks(teacher, AllowedDrop(0, drop), Select.EVEN, ()).kept_blocks == [[0]]
    assert seen == [[[0, 1, 2, 3, 4]], [[0, 1, 3, 4]], [[0, 2, 4]], [[0, 3]], [[0]]]
