"""The optimisers of updaters: one kernel for an update, and the states of checkpoints from before that."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_core.training.updaters import make_optimizer
from lit_spec import Optimizer, Schedule

SETTINGS: dict[Optimizer, dict[str, Any]] = {
    Optimizer.SGD: {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
    Optimizer.ADAM: {"betas": (0.9, 0.999), "weight_decay": 1e-4},
}
PLAIN = {Optimizer.SGD: torch.optim.SGD, Optimizer.ADAM: torch.optim.Adam}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def train(own: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    for step in steps:
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.zero_grad()
        own(x).square().sum().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in own.parameters()]


@pytest.mark.parametrize("kind", list(Optimizer))
def test_a_training_goes_on_from_the_state_of_an_optimiser_with_many_kernels(kind: Optimizer) -> None:
    wanted_network, ours = network(), network()
    plain = PLAIN[kind](wanted_network.parameters(), lr=0.0, **SETTINGS[kind])
    assert plain.param_groups[0]["fused"] is None
    train(wanted_network, plain, range(3))
    ours.load_state_dict(wanted_network.state_dict())
    restored = make_optimizer(ours, Schedule(optimizer=kind))
    assert restored.param_groups[0]["fused"] is True
    restored.load_state_dict(copy.deepcopy(plain.state_dict()))
    for one, other in zip(train(ours, restored, range(3, 6)), train(wanted_network, plain, range(3, 6)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", list(Optimizer))
def test_a_training_in_two_pieces_ends_with_the_same_bits(kind: Optimizer) -> None:
    whole, broken, resumed = network(), network(), network()
    wanted = train(whole, make_optimizer(whole, Schedule(optimizer=kind)), range(6))
    first = make_optimizer(broken, Schedule(optimizer=kind))
    train(broken, first, range(3))
    resumed.load_state_dict(broken.state_dict())
    second = make_optimizer(resumed, Schedule(optimizer=kind))
    second.load_state_dict(first.state_dict())
    assert all(map(torch.equal, train(resumed, second, range(3, 6)), wanted))


def test_sparse_gradients_are_still_taken() -> None:
    embedding = nn.EmbeddingBag(4, 3, sparse=True)
    before = embedding.weight.detach().clone()
    optimizer = make_optimizer(embedding, Schedule(weight_decay=0))
    optimizer.param_groups[0]["lr"] = 0.1
    embedding(torch.tensor([[0, 1]])).sum().backward()
    optimizer.step()
    changed = (embedding.weight != before).any(dim=1)
    assert changed.tolist() == [True, True, False, False]
