"""The optimisers of updaters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_core.training.updaters import make_optimizer
from lit_spec import Optimizer, Schedule


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
def test_a_training_in_two_pieces_ends_with_the_same_bits(kind: Optimizer) -> None:
    whole, broken, resumed = network(), network(), network()
    wanted = train(whole, make_optimizer(whole, Schedule(optimizer=kind)), range(6))
    first = make_optimizer(broken, Schedule(optimizer=kind))
    train(broken, first, range(3))
    resumed.load_state_dict(broken.state_dict())
    second = make_optimizer(resumed, Schedule(optimizer=kind))
    second.load_state_dict(first.state_dict())
    assert all(map(torch.equal, train(resumed, second, range(3, 6)), wanted))


@pytest.mark.parametrize("kind", list(Optimizer))
def test_a_parameter_may_get_its_first_gradient_in_a_later_step(kind: Optimizer) -> None:
    """As in a network that runs a branch only sometimes. Torch's fused SGD raises TypeError then."""
    branches = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])
    optimizer = make_optimizer(branches, Schedule(optimizer=kind))
    optimizer.param_groups[0]["lr"] = 0.1
    before = [parameter.detach().clone() for parameter in branches.parameters()]
    for used in (branches[:1], branches):
        optimizer.zero_grad()
        torch.stack([branch(torch.ones(2, 5)).square().sum() for branch in used]).sum().backward()
        optimizer.step()
    assert not any(map(torch.equal, branches.parameters(), before))


def test_sparse_gradients_are_taken() -> None:
    embedding = nn.EmbeddingBag(4, 3, sparse=True)
    before = embedding.weight.detach().clone()
    optimizer = make_optimizer(embedding, Schedule(weight_decay=0))
    optimizer.param_groups[0]["lr"] = 0.1
    embedding(torch.tensor([[0, 1]])).sum().backward()
    optimizer.step()
    changed = (embedding.weight != before).any(dim=1)
    assert changed.tolist() == [True, True, False, False]
