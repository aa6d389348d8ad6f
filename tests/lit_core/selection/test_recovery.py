"""Select `recover`: which blocks go, by the damage that leaving them out does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.selection.blocks import AllowedDrop, Budget, Depth, FixedBlocks, Unreachable, select_blocks
from lit_core.selection.recovery import Goal, Recovery
from lit_spec import Output, Select
from lit_spec.networks.students import BlockCosts
from tests.lit_core.networks.test_discovery import Mine, sectioned


class Residual(nn.Module):
    def __init__(self, strength: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.strength * self.second(torch.tanh(self.first(x)))
        return out


class TwoSections(nn.Module):
    """Blocks whose strength says how much is lost without them."""

    def __init__(self, *strengths: Sequence[float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(3, 8)
        self.lower, self.upper = (nn.ModuleList(map(Residual, own)) for own in (*strengths, [])[:2])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in (*self.lower, *self.upper):
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


USELESS = 0.01


def teacher(*strengths: Sequence[float]) -> SectionedNetwork:
    return sectioned(TwoSections(*strengths), torch.zeros(2, 3), ["lower", "upper"])


def samples(batches: int = 4) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 3, generator=generator),) for _ in range(batches)]


def kept(network: SectionedNetwork, wanted: Any) -> list[list[int]]:
    return select_blocks(network, wanted, Select.RECOVER, samples()).kept_blocks


@pytest.mark.parametrize("useless", [(0, 0), (0, 1), (1, 2)])
def test_a_block_that_is_close_to_identity_goes(useless: tuple[int, int]) -> None:
    """Whichever it is; the last block too, and also the first, which other rules always keep."""
    strengths = [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    strengths[useless[0]][useless[1]] = USELESS
    network = teacher(*strengths)
    found = select_blocks(network, Depth(5), Select.RECOVER, samples())
    assert found.kept_blocks == [[i for i in range(3) if (n, i) != useless] for n in range(2)]
    assert found.damages is not None
    damages = [damage for section in found.damages for damage in section if damage is not None]
    assert len(damages) == 6
    assert found.damages[useless[0]][useless[1]] == min(damages)
    assert min(damages) < 0.01 * sorted(damages)[1]


def test_the_number_of_blocks_of_each_section_is_obeyed() -> None:
    network = teacher([USELESS, 2.0, USELESS], [2.0, USELESS, 2.0])
    assert kept(network, FixedBlocks([2, 2])) in ([[0, 1], [0, 2]], [[1, 2], [0, 2]])
    assert kept(network, FixedBlocks([1, 3])) == [[1], [0, 1, 2]]
    assert [len(section) for section in kept(network, FixedBlocks([3, 1]))] == [3, 1]
    assert kept(network, Depth(3)) == [[1], [0, 2]], "all of the useless ones, wherever they are"


def test_a_budget_is_met_by_what_saves_most_for_its_damage() -> None:
    """The damage counts for each unit that is saved."""
    network = teacher([2.0, USELESS, 2.0], [2.0, 2.0, USELESS])
    cheap = BlockCosts(total=100, blocks=[[10, 10, 10], [10, 10, 40]])
    assert kept(network, Budget(cheap, 60)) == [[0, 1, 2], [0, 1]]
    assert kept(network, Budget(cheap, 50)) == [[0, 2], [0, 1]]
    with pytest.raises(Unreachable) as failure:
        kept(network, Budget(cheap, 5))
    assert failure.value.nearest == cheap.left([[0], [0]])


def test_a_budget_that_only_another_block_meets_is_met() -> None:
    """What does the most damage is also the largest block."""
    network = teacher([USELESS, USELESS, 2.0], [2.0])
    costs = BlockCosts(total=100, blocks=[[20, 15, 50], [10]])
    assert kept(network, Budget(costs, 65)) == [[2], [0]]
    assert kept(network, Budget(costs, 30)) == [[1], [0]]
    with pytest.raises(Unreachable) as failure:
        kept(network, Budget(costs, 29))
    assert failure.value.nearest == 30


def test_one_block_that_saves_much_goes_rather_than_two_that_save_little() -> None:
    network = teacher([0.5] * 3, [0.5] * 3)
    damages = Recovery(network, samples(), Output.LOGITS).damages
    ranked = sorted((damage or 0.0, n, i) for n, section in enumerate(damages) for i, damage in enumerate(section))
    (least, *_), _, (third, section, index), *_ = ranked
    assert third < 8 * least
    costs = [[80 if (n, i) == (section, index) else 10 for i in range(3)] for n in range(2)]
    found = kept(network, Budget(BlockCosts(total=130, blocks=costs), 110))
    assert found == [[i for i in range(3) if (n, i) != (section, index)] for n in range(2)]


def test_blocks_that_need_not_go_come_back() -> None:
    """The cheap blocks go first, for nothing once the expensive one has to go."""
    network = teacher([2.0, USELESS], [2.0, 2 * USELESS])
    costs = BlockCosts(total=100, blocks=[[20, 20], [20, 30]])
    recovery = Recovery(network, samples(), Output.LOGITS)
    damages = recovery.damages
    assert damages[0][1] is not None
    assert damages[1][1] is not None
    assert damages[0][1] / 20 < damages[1][1] / 30
    assert kept(network, Budget(costs, 72)) == [[0, 1], [0]]


def test_an_allowed_drop_is_used_as_far_as_it_goes() -> None:
    network = teacher([2.0, USELESS, 2.0], [USELESS, 2.0, 2.0])
    asked = []

    def drop(blocks: list[list[int]]) -> float:
        asked.append(blocks)
        return 1.0 if blocks in ([[0, 1, 2], [1, 2]], [[0, 2], [0, 1, 2]], [[0, 2], [1, 2]]) else 7.5

    assert kept(network, AllowedDrop(5.0, drop)) == [[0, 2], [1, 2]]
    assert len(asked) == 3
    with pytest.raises(Unreachable) as failure:
        kept(network, AllowedDrop(0.5, drop))
    assert failure.value.nearest == 1.0


class Writes(Residual):
    """Writes into a channel what is read from another one: a second such block changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1], 5 * x[:, :1]], dim=1)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_of_two_neighbours_that_do_the_same_one_stays(place: int) -> None:
    """Each alone does no damage, and both together do most."""
    network = TwoSections([0.3] * 4, [0.3] * 3)
    for index in (place, place + 1):
        network.lower[index] = Writes(0.3)
    teacher = sectioned(network, torch.zeros(2, 3), ["lower", "upper"])
    found = select_blocks(teacher, Depth(5), Select.RECOVER, samples())
    assert found.damages is not None
    assert [found.damages[0][index] for index in (place, place + 1)] == pytest.approx([0.0, 0.0], abs=1e-6)
    (lower, upper) = found.kept_blocks
    assert len({place, place + 1} & set(lower)) == 1
    assert len(lower) + len(upper) == 5

    recovery = Recovery(teacher, samples(), Output.LOGITS)
    together = recovery.damage_of(shortened(teacher, [[i for i in range(4) if i not in (place, place + 1)], [0, 1, 2]]))
    assert together > 3 * recovery.damage_of(shortened(teacher, found.kept_blocks))


def test_neighbours_across_two_sections_are_neighbours_too() -> None:
    """As where a long run of blocks was cut into sections."""
    network = TwoSections([0.3] * 3, [0.3] * 3)
    network.lower[2], network.upper[0] = Writes(0.3), Writes(0.3)
    lower, upper = kept(sectioned(network, torch.zeros(2, 3), ["lower", "upper"]), Depth(4))
    assert (2 in lower) != (0 in upper)


def of_damages(damages: list[list[float | None]], interactions: dict[tuple[int, int], float]) -> Recovery:
    recovery = Recovery(teacher(*([0.3] * len(section) for section in damages)), samples(), Output.LOGITS)
    recovery.damages, recovery.first_stays = damages, [section[0] is None for section in damages]
    order = [(n, i) for n, section in enumerate(damages) for i in range(len(section))]
    recovery.interactions = dict.fromkeys(order, 0.0) | interactions
    return recovery


@pytest.mark.parametrize(
    ("interaction", "expected"),
    [
        # The last block saves so much that two others may come back: not two neighbours, which are harmless alone.
        (0.4, [[0, 2, 3], [0]]),
        # The second of two that are better left out together stays out.
        (-0.25, [[0, 3], [0]]),
    ],
)
def test_what_comes_back_is_what_does_damage_now(interaction: float, expected: list[list[int]]) -> None:
    recovery = of_damages([[None, 0.1, 0.12, 0.3], [None, 9.0]], {(0, 1): interaction})
    costs = BlockCosts(total=100, blocks=[[10, 10, 10, 10], [10, 50]])
    goal = Goal(lambda kept: costs.left(kept) <= 40, lambda kept: costs.total - costs.left(kept))
    found = recovery._with_what_may_stay([[0], [0]], goal)
    assert found == expected


def test_infinite_damages_do_not_make_their_neighbours_harmless() -> None:
    recovery = of_damages([[None, 0.1, math.inf, 0.2], [None]], {})
    goal = Goal(lambda kept: sum(map(len, kept)) <= 3, lambda kept: 5 - sum(map(len, kept)))
    assert recovery._with_what_may_stay([[0], [0]], goal) == [[0, 2], [0]]
    assert next(iter(recovery.descent(goal.saved))) == [[0, 2, 3], [0]]


class Masked(TwoSections):
    """Rules the last class out."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.masked_fill(torch.tensor([False, False, False, True]), -math.inf)


def test_a_class_that_the_network_rules_out_does_no_damage() -> None:
    strengths = [2.0, 2.0, USELESS]
    found = select_blocks(
        sectioned(Masked(strengths), torch.zeros(2, 3), ["lower"]), Depth(2), Select.RECOVER, samples()
    )
    assert found.kept_blocks == [[0, 1]]
    assert found.damages is not None
    assert all(math.isfinite(damage or 0.0) for damage in found.damages[0])


def test_no_batch_of_one_sample_is_made() -> None:
    """113 samples are measured of a network of 18 blocks, 7 batches of 16 and one more, and 4 batches at once."""
    sizes = set()

    class Squeezed(TwoSections):
        def forward(self, x: Tensor) -> Tensor:
            sizes.add(len(x))
            logits: Tensor = super().forward(x).squeeze()
            return logits.log_softmax(1)

    network = sectioned(Squeezed([0.3] * 18), torch.zeros(2, 3), ["lower"])
    select_blocks(network, Depth(17), Select.RECOVER, samples(batches=12))
    assert sizes == {2, 48, 64}


def test_the_first_block_stays_where_it_must() -> None:
    network = Mine()
    network.layers[0].second = nn.Sequential(nn.Linear(6, 6), nn.Identity(), nn.Linear(6, 6))  # type: ignore[union-attr]
    found = select_blocks(sectioned(network, torch.zeros(2, 3), ["layers"]), Depth(1), Select.RECOVER, samples())
    assert found.kept_blocks == [[0]]
    assert found.damages is not None
    assert found.damages[0][0] is None


def test_where_no_block_saves_anything_the_damage_decides() -> None:
    recovery = Recovery(teacher([0.3] * 4, [0.3] * 3), samples(), Output.LOGITS)
    recovery.damages = [[None, 5.0, 0.1, math.inf], [None, 4.0, 1.0]]
    recovery.interactions = {(0, 0): 0.0, (0, 1): 0.0, (0, 2): 0.0, (1, 0): 0.0, (1, 1): 0.0}
    gone = []
    before = recovery.whole
    for kept in recovery.descent(lambda _kept: 0.0):
        gone += [(n, i) for n, own in enumerate(before) for i in own if i not in kept[n]]
        before = kept
    # With all savings equal the least damaging block is first, and the first of a section goes like any other.
    assert [recovery.damages[n][i] for n, i in gone if i > 0] == sorted(
        (recovery.damages[n][i] for n, i in gone if i > 0), key=lambda damage: damage or 0.0
    )
    assert [len(own) for own in before] == [1, 1]
