"""Traces are what the passes were, whatever later layers do to the tensors, with copies and without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_core.networks.layout import Layout
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.watching import SavedTensor


class AddInPlace(nn.Module):
    def __init__(self, number: float, *, in_place: bool) -> None:
        super().__init__()
        self.number, self.in_place, self.calls = number, in_place, 0

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        self.calls += 1
        if self.in_place:
            bias.add_(1)
            return x.add_(self.number)
        return x + self.number


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AddInPlace(number, in_place=False) for number in (1, 2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        x, bias = x.clone(), torch.zeros(1)
        for block in self.blocks:
            x = block(x, bias)
        return x


def network(in_place: set[int]) -> SectionedNetwork:
    found = Net()
    for number in in_place:
        found.blocks[number].in_place = True
    paths = [f"blocks.{n}" for n in range(4)]
    sectioned = SectionedNetwork(found, Layout((), (tuple(paths[:2]), tuple(paths[2:])), ()))
    sectioned.freeze()
    return sectioned


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("in_place", [set(), {0}, {2}, {3}, {0, 1, 2, 3}], ids=str)
def test_a_trace_has_each_representation_as_it_was(in_place: set[int], gradients: bool) -> None:
    traced = network(in_place)
    for _ in range(2):
        with torch.set_grad_enabled(gradients):
            trace = traced.trace(torch.zeros(1))
        assert [float(one) for one in trace.inputs] == [0, 3]
        assert [float(one) for one in trace.outputs] == [3, 10]
        biases = [float(one.args[0]) for blocks in trace.extra_arguments for one in blocks]
        assert biases == [float(sum(n < place for n in in_place)) for place in range(4)]


def test_only_a_pass_that_changed_something_is_repeated_and_only_once() -> None:
    changes, keeps = network({2}), network(set())
    with torch.no_grad():
        for one in (changes, keeps):
            one.trace(torch.zeros(1))
            one.trace(torch.zeros(1))
    assert (changes.network.blocks[0].calls, keeps.network.blocks[0].calls) == (3, 2)


def test_a_network_that_begins_to_change_in_place_is_noticed() -> None:
    traced = network(set())
    with torch.no_grad():
        own = traced.trace(torch.zeros(1))
        traced.network.blocks[2].in_place = True
        assert [float(one) for one in traced.trace(torch.zeros(1)).inputs] == [0, 3]
    assert [float(one) for one in own.inputs] == [0, 3]


def test_a_lost_tensor_is_an_error() -> None:
    tensor = torch.zeros(1)
    kept = SavedTensor.of(tensor, copied=False)
    assert kept.value is tensor
    tensor.add_(1)
    assert kept.is_lost
    with pytest.raises(ValueError, match="changed in place"):
        kept.value  # noqa: B018
    with torch.inference_mode():
        inference = torch.zeros(1)
        assert SavedTensor.of(inference, copied=False).copy is not None
