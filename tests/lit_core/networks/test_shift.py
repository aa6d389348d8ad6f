"""The repair in closed form: a block before a gap gets the mean output that the teacher has after the gap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.shift import Gap, gaps_of, shift
from lit_core.networks.student import shortened
from tests.lit_core.networks.test_discovery import sectioned


class Block(nn.Module):
    """A residual block of convolutions, as `kind` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        if self.kind != "plain":
            out = x + out
        return torch.relu(out) if self.kind == "relu" else out


class Convolutions(nn.Module):
    def __init__(self, kind: str, blocks: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 5, 1)
        self.layers = nn.ModuleList(Block(kind) for _ in range(blocks))
        self.head = nn.Linear(5, 2)
        for layer in self.layers:
            nn.init.normal_(layer.norm.bias)  # type: ignore[arg-type, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


class Layers(nn.Module):
    """Transformer-like blocks on (B, L, E)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(3, 6)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.LayerNorm(6)) for _ in range(3))
        self.head = nn.Linear(6, 2)
        for layer in self.layers:
            nn.init.normal_(layer[2].bias)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x.mean(dim=1))
        return logits


def output_of(network: SectionedNetwork, path: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = network.network.get_submodule(path).register_forward_hook(
        lambda _module, _args, output: found.append(output.detach().clone())
    )
    with torch.no_grad():
        network.network(x)
    handle.remove()
    return found[0]


def case(network: nn.Module, kept: list[int], x: Tensor) -> tuple[SectionedNetwork, SectionedNetwork]:
    teacher = sectioned(network.eval(), x[:2], ["layers"])
    student = shortened(teacher, [kept])
    student.network.eval()
    return teacher, student


@pytest.mark.parametrize("kind", ["residual", "plain"])
def test_the_mean_after_the_gap_is_the_teachers(kind: str) -> None:
    x = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    teacher, student = case(Convolutions(kind), [0, 3], x)
    wanted = output_of(teacher, "layers.2", x).mean(dim=(0, 2, 3))
    before = output_of(student, "layers.0", x)
    assert not torch.allclose(before.mean(dim=(0, 2, 3)), wanted, atol=1e-2)
    # Batches of different sizes count by their samples.
    assert shift(teacher, student, Gap(section=0, place=0, last=2), [(x[:8],), (x[8:],)])
    after = output_of(student, "layers.0", x)
    torch.testing.assert_close(after.mean(dim=(0, 2, 3)), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.std(dim=(0, 2, 3)), before.std(dim=(0, 2, 3)))


def test_the_channels_of_a_transformer_are_its_last_axis() -> None:
    """There are as many positions as channels."""
    x = torch.randn(10, 6, 3, generator=torch.Generator().manual_seed(2))
    teacher, student = case(Layers(), [0], x)
    assert shift(teacher, student, Gap(section=0, place=0, last=2), [(x,)])
    wanted = output_of(teacher, "layers.2", x).mean(dim=(0, 1))
    torch.testing.assert_close(output_of(student, "layers.0", x).mean(dim=(0, 1)), wanted, atol=1e-5, rtol=0)


def test_a_block_that_ends_with_a_relu_stays_as_it_is() -> None:
    x = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    teacher, student = case(Convolutions("relu"), [0, 3], x)
    before = {name: tensor.clone() for name, tensor in student.network.state_dict().items()}
    assert not shift(teacher, student, Gap(section=0, place=0, last=2), [(x,)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.network.state_dict().items())


def test_a_bias_that_the_model_fixes_stays_as_it_is() -> None:
    x = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    network: Any = Convolutions("residual")
    network.layers[0].norm.bias.requires_grad_(False)
    teacher, student = case(network, [0, 3], x)
    assert not shift(teacher, student, Gap(section=0, place=0, last=2), [(x,)])


def test_gaps_are_where_blocks_are_missing_after_one_that_stays() -> None:
    x = torch.randn(2, 3, 6, 6)
    teacher, student = case(Convolutions("plain", blocks=6), [1, 2, 4], x)
    assert gaps_of(teacher, student) == [Gap(0, 1, 3), Gap(0, 2, 5)]
