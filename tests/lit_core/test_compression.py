"""`lit_core.compress`: any module and any batches, without a server."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lit_core
from lit_core.compression import Compressed
from lit_core.data import Interface, load_dataset
from lit_core.spec import DatasetRequest, Schedule, Split
from tests.lit_core.test_discovery import Mine

SCHEDULE = {"lit": {"epochs": 4, "learning_rate": 0.02}, "fine_tune": {"epochs": 1, "learning_rate": 0.01}}


class OnDigits(nn.Module):
    """A residual network of somebody's own for the real digits."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = Mine(6)
        self.mine.embed = nn.Linear(64, 6)
        self.mine.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.mine(x.flatten(1))
        return logits


def digits() -> tuple[DataLoader[tuple[torch.Tensor, ...]], list[tuple[torch.Tensor, torch.Tensor]]]:
    found = load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(1, 10))
    train, test = found.splits[Split.TRAIN], found.splits[Split.TEST]
    loader = DataLoader(
        TensorDataset(found.preprocessing.apply(train.x), train.y),
        batch_size=32,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    return loader, [(found.preprocessing.apply(test.x), test.y)]


def trained() -> nn.Module:
    torch.manual_seed(0)
    loader, _ = digits()
    network = OnDigits()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(10):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    return network.eval()


def test_a_module_of_ones_own_on_real_data() -> None:
    teacher = trained()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    loader, test = digits()
    compressed = lit_core.compress(teacher, loader, blocks=[1, 1], validation=test, schedule=SCHEDULE)
    assert isinstance(compressed, Compressed)
    report, student = compressed.report, compressed.student
    assert report["teacher"]["blocks"] == [3, 3]
    assert report["student"]["blocks"] == [1, 1]
    assert report["selection"]["kept"] == [[0], [0]]
    assert report["ratios"]["parameters"] > 1.2
    assert report["validation"]["teacher_accuracy"] > 85
    assert report["validation"]["student_accuracy"] > 75
    with torch.no_grad():
        answers = student(test[0][0]).argmax(dim=1)
    accuracy = 100 * float((answers == test[0][1]).double().mean())
    assert accuracy == pytest.approx(report["validation"]["student_accuracy"])
    assert report["validation"]["student_accuracy"] == max(epoch["student_accuracy"] for epoch in report["epochs"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_unlabelled_batches_of_a_list() -> None:
    torch.manual_seed(0)
    data = [torch.randn(4, 3) for _ in range(6)]
    compressed = lit_core.compress(
        Mine(), data, ratio=1.3, sections=["layers"], select="importance", alpha=0.0, schedule=SCHEDULE
    )
    assert compressed.report["ratios"]["parameters"] >= 1.3
    assert compressed.report["validation"] is None
    assert len(compressed.report["selection"]["importance"][0]) == 4
    losses = [epoch["loss"] for epoch in compressed.report["epochs"] if epoch["phase"] == "lit"]
    assert losses[-1] < losses[0]


class OfTwo(nn.Module):
    """Takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = Mine()

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.mine(x + shift)
        return logits


def test_networks_of_several_inputs() -> None:
    torch.manual_seed(0)
    data = [((torch.randn(4, 3), torch.randn(4, 3)), torch.tensor([0, 1, 1, -1])) for _ in range(3)]
    made = lit_core.compress(OfTwo(), data, blocks=[2], validation=data, schedule=SCHEDULE)
    assert made.report["validation"]["agreement"] > 0
    assert made.student(*data[0][0]).shape == (4, 2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "either blocks"),
        ({"blocks": [1], "ratio": 2.0}, "either blocks"),
        ({"blocks": [9], "alpha": 0.0}, r"the model has \[4\]"),
        ({"ratio": 100.0, "alpha": 0.0}, "more than the shallowest"),
        ({"blocks": [2], "method": "scratch"}, "for the service"),
        ({"blocks": [2], "alpha": 2.0}, "alpha"),
        ({"blocks": [2], "gamma": 1}, "gamma"),
        ({"blocks": [2], "alpha": 0.5}, "labels"),
    ],
)
def test_what_does_not_fit_is_told(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        lit_core.compress(Mine(), [torch.randn(4, 3)], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        [],
        iter([torch.randn(4, 3)]),
        [{"x": 1}],
        [(torch.randn(4, 3), torch.randn(4))],
        [((), torch.ones(4).long())],
        [(torch.randn(4, 3), torch.ones(3).long())],
    ],
)
def test_data_that_is_no_batches_is_told(data: object) -> None:
    with pytest.raises(ValueError, match="batch"):
        lit_core.compress(Mine(), data, blocks=[2], alpha=0.0)  # type: ignore[arg-type]


def test_a_schedule_may_be_an_object() -> None:
    torch.manual_seed(0)
    schedule = Schedule.model_validate(SCHEDULE)
    made = lit_core.compress(Mine(), [torch.randn(4, 3)], blocks=[2], alpha=0.0, schedule=schedule)
    assert made.report["hyperparameters"]["schedule"]["optimizer"] == "sgd"
