"""The IR loss of networks with layers between their sections, which belong to none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.training.batch import Batch
from lit_core.training.objectives import LitObjective, OutputLoss, draw_feeds
from lit_spec import Feed, Part
from tests.lit_core.networks.test_discovery import Residual, sectioned
from tests.lit_core.training.taught_step import losses_of

PROGRESS = 0.4


class Staged(nn.Module):
    """Widens between its two sections, as ConvNeXt does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.first = nn.ModuleList(Residual(4) for _ in range(2))
        self.between, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.second = nn.ModuleList(Residual(6) for _ in range(3))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.run_second(self.widen(self.run_first(self.stem(x)))))
        return logits

    def run_first(self, x: Tensor) -> Tensor:
        for block in self.first:
            x = block(x, 0.5)
        return x

    def widen(self, x: Tensor) -> Tensor:
        wide: Tensor = self.norm(self.between(x))
        return wide

    def run_second(self, x: Tensor) -> Tensor:
        for block in self.second:
            x = block(x, 0.7)
        return x


def networks(frozen: list[Part]) -> tuple[SectionedNetwork, SectionedNetwork]:
    torch.manual_seed(0)
    teacher = sectioned(Staged().double(), torch.randn(2, 3, dtype=torch.float64))
    assert teacher.layout.sections == (("first.0", "first.1"), ("second.0", "second.1", "second.2"))
    student = shortened(teacher, [[0], [0, 2]])
    student.train(frozen)
    return teacher, student


def objective(beta: float, feed: Feed, frozen: list[Part]) -> LitObjective:
    return LitObjective(
        output_loss=OutputLoss(0, 2),
        beta=beta,
        measure=F.mse_loss,
        sections=2,
        frozen=frozen,
        feed=feed,
        feed_until=0.8,
    )


def seed_of(feeds: list[bool]) -> int:
    """With which scheduled feeding draws these."""
    return next(
        seed
        for seed in range(100)
        if draw_feeds(Feed.SCHEDULED, 2, PROGRESS, 0.8, torch.Generator().manual_seed(seed)) == feeds
    )


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("feeds", [[False, False], [False, True], [True, False], [True, True]])
@pytest.mark.parametrize("frozen", [[Part.STEM, Part.HEAD], []], ids=["frozen", "free"])
def test_a_students_own_representation_goes_through_what_lies_between(
    beta: float, feeds: list[bool], frozen: list[Part]
) -> None:
    teacher, student = networks(frozen)
    x = torch.randn(5, 3, dtype=torch.float64)
    # The naive way, on copies that keep the same parameters' gradients apart.
    _, copied = networks(frozen)
    taught, own = teacher.network, copied.network
    assert isinstance(taught, Staged)
    assert isinstance(own, Staged)
    with torch.no_grad():
        one = taught.run_first(taught.stem(x))
        two = taught.run_second(taught.widen(one))
    loss = torch.zeros((), dtype=torch.float64)
    if beta:
        soft = torch.softmax(taught(x) / 2, dim=1)
        loss = beta * 4 * -(soft * torch.log_softmax(own(x) / 2, dim=1)).sum(dim=1).mean()
        # The KD path alone updates the statistics.
        own.norm.track_running_stats = False
    made_one = own.run_first(taught.stem(x) if feeds[0] else own.stem(x))
    made_two = own.run_second(taught.widen(one) if feeds[1] else own.widen(made_one))
    loss = loss + (1 - beta) * (F.mse_loss(made_one, one) + F.mse_loss(made_two, two))
    loss.backward()  # type: ignore[no-untyped-call]

    batch = Batch((x,), torch.full((5,), -1), PROGRESS, torch.Generator().manual_seed(seed_of(feeds)))
    found = losses_of(objective(beta, Feed.SCHEDULED, frozen), teacher, student, batch)
    found.total.backward()  # type: ignore[no-untyped-call]
    assert found.total.item() == pytest.approx(loss.item(), rel=1e-10)
    for (name, mine), (_, wanted) in zip(
        student.network.named_parameters(), copied.network.named_parameters(), strict=True
    ):
        if wanted.grad is None or mine.grad is None:
            # What takes no part in the loss may have no gradient, or one of zeros.
            assert not any(grad is not None and bool(grad.any()) for grad in (mine.grad, wanted.grad)), name
        else:
            torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-9, atol=1e-12, msg=name)
    if beta:
        for (name, mine), (_, wanted) in zip(student.network.named_buffers(), own.named_buffers(), strict=True):
            torch.testing.assert_close(mine, wanted, msg=name)


def test_sections_that_follow_one_another_are_a_chain() -> None:
    teacher, _ = networks([])
    assert not teacher.trace(torch.randn(2, 3, dtype=torch.float64)).is_chain


class Activating(nn.Module):
    """A block that begins with an activation, perhaps in the place of what it is given."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first, self.second, self.in_place = nn.Linear(4, 4), nn.Linear(4, 4), in_place

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(x, inplace=self.in_place)
        out: Tensor = x + self.second(torch.relu(self.first(x)))
        return out


class Activated(nn.Module):
    """Two sections, and perhaps a scale between them."""

    def __init__(self, in_place: bool, between: bool) -> None:
        super().__init__()
        self.in_place, self.between = in_place, between
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.first = nn.ModuleList(Activating(in_place) for _ in range(2))
        self.second = nn.ModuleList(Activating(in_place) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.first:
            x = block(x)
        if self.between:
            x = x.mul_(1.5) if self.in_place else x * 1.5
        for block in self.second:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("feeds", [[False, False], [False, True], [True, False], [True, True]])
@pytest.mark.parametrize("between", [False, True])
def test_layers_that_work_in_place_change_no_loss(between: bool, feeds: list[bool], beta: float) -> None:
    torch.manual_seed(0)
    state = Activated(in_place=False, between=between).double().state_dict()
    x, labels = torch.randn(5, 3, dtype=torch.float64), torch.zeros(5).long()
    found = []
    for in_place in (False, True):
        network = Activated(in_place, between).double()
        network.load_state_dict(state)
        sections = [["first.0", "first.1"], ["second.0", "second.1"]]
        teacher = sectioned(network, x, sections)
        student = shortened(teacher, [[0], [1]])
        student.train([Part.STEM, Part.HEAD])
        generator = torch.Generator().manual_seed(seed_of(feeds))
        batch = Batch((x,), labels, progress=PROGRESS, generator=generator)
        losses = losses_of(objective(beta, Feed.SCHEDULED, [Part.STEM, Part.HEAD]), teacher, student, batch)
        losses.total.backward()  # type: ignore[no-untyped-call]
        gradients = {name: one.grad for name, one in student.network.named_parameters() if one.grad is not None}
        found.append({"total": losses.total.detach(), **losses.parts, **gradients})
    plain, in_place_too = found
    assert plain.keys() == in_place_too.keys()
    for name, value in plain.items():
        torch.testing.assert_close(in_place_too[name], value, msg=name)
