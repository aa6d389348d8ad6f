"""The teacher as a program for inference: folded where that is safe, and never another network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from lit_core.networks.families import family_of
from lit_core.networks.inference import in_half_precision, inference_copy, tensors_of
from lit_core.networks.layout import Layout
from lit_core.networks.memory_format import in_channels_last, takes_channels_last
from lit_core.networks.sections import SectionedNetwork
from lit_spec import Architecture

X = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


def randomised(network: nn.Module) -> nn.Module:
    """With statistics and affine parameters away from their initial values."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network


def convolution(width: int = 4) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, padding=1)


class Block(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor] | None = None, **options: bool) -> None:
        super().__init__()
        self.conv, self.norm = convolution(), nn.BatchNorm2d(4, **options)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x)
        return F.relu(x + self.norm(made if self.between is None else self.between(made)))


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module, flatten: Callable[[Tensor], Tensor] = lambda x: x.mean((2, 3))) -> None:
        super().__init__()
        self.stem, self.blocks, self.flatten = nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(*blocks), flatten
        self.head = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.flatten(self.blocks(self.stem(x))))
        return logits


def sectioned(*blocks: nn.Module, **options: Callable[[Tensor], Tensor]) -> SectionedNetwork:
    torch.manual_seed(0)
    network = Net(*blocks, **options)
    network(*X)
    half = len(blocks) // 2
    paths = [f"blocks.{n}" for n in range(len(blocks))]
    layout = Layout(("stem",), (tuple(paths[:half]), tuple(paths[half:])), ("head",))
    found = SectionedNetwork(randomised(network), layout)
    found.freeze()
    return found


def folded_in(network: SectionedNetwork) -> int:
    return sum(isinstance(module, nn.Identity) for module in network.network.modules())


@torch.no_grad()
def assert_is_the_same(network: SectionedNetwork, program: SectionedNetwork) -> None:
    for one, other in zip(tensors_of(program.trace(*X)), tensors_of(network.trace(*X)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_every_batch_norm_of_a_resnet_is_folded_and_the_network_stays_as_it_is(shortcut: str) -> None:
    options: dict[str, int | str | bool] = {
        "width": 4,
        "shortcut": shortcut,
        "head": "fc",
        "projection": "downsample",
    }
    architecture = Architecture(
        family="resnet_cifar", depth=20, blocks=[3, 3, 3], channels=3, classes=5, options=options
    )
    family = family_of(architecture)
    network = SectionedNetwork(randomised(family.build(architecture)), family.layout(architecture))
    network.freeze()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.network.modules())
    before = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    program = inference_copy(network, X)
    assert folded_in(program) == norms == (19 if shortcut == "A" else 21)
    assert_is_the_same(network, program)
    after = network.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # What is not folded is not held twice.
    assert program.network.get_parameter("fc.weight") is network.network.get_parameter("fc.weight")


def test_a_batch_norm_without_affine_parameters_and_a_convolution_without_bias_are_folded() -> None:
    blocks = [Block(affine=False), Block()]
    blocks[1].conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    network = sectioned(*blocks)
    program = inference_copy(network, X)
    assert folded_in(program) == 2
    assert_is_the_same(network, program)


def used_twice(name: str) -> list[nn.Module]:
    blocks = [Block(), Block()]
    setattr(blocks[1], name, getattr(blocks[0], name))
    return blocks


def with_hook(name: str) -> list[nn.Module]:
    blocks = [Block()]
    getattr(blocks[0], name).register_forward_hook(lambda _m, _a, output: 2 * output)
    return [*blocks, nn.Identity()]


def reparametrised(how: Callable[[nn.Module], nn.Module]) -> list[nn.Module]:
    block = Block()
    how(block.conv)
    return [block, nn.Identity()]


class ReadsTwice(Block):
    """Something else reads the convolution's output."""

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x)
        return self.norm(made) + made


class ReadsItsNorm(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.norm.weight.mean()


class Chain(nn.Module):
    """A convolution as the last block of a section, and its BatchNorm as the first of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3), convolution(), nn.BatchNorm2d(4), convolution())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x).mean((2, 3))


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(lambda: used_twice("norm"), id="BatchNorm called twice"),
        pytest.param(lambda: used_twice("conv"), id="convolution called twice"),
        pytest.param(lambda: with_hook("conv"), id="convolution with a hook"),
        pytest.param(lambda: with_hook("norm"), id="BatchNorm with a hook"),
        pytest.param(lambda: reparametrised(parametrizations.weight_norm), id="parametrised weight"),
        pytest.param(lambda: reparametrised(weight_norm), id="weight set before each pass"),
        pytest.param(lambda: [Block(track_running_stats=False), nn.Identity()], id="no running statistics"),
        pytest.param(lambda: [Block(between=lambda made: made + 1), nn.Identity()], id="something in between"),
        pytest.param(lambda: [Block(between=lambda made: made.mul_(2)), nn.Identity()], id="changed in place"),
        pytest.param(lambda: [ReadsTwice(), nn.Identity()], id="output read elsewhere"),
        pytest.param(lambda: [ReadsItsNorm(), nn.Identity()], id="weights read elsewhere"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_what_is_not_safe_is_not_folded(blocks: Callable[[], list[nn.Module]]) -> None:
    network = sectioned(*blocks())
    program = inference_copy(network, X)
    assert sum(isinstance(one, nn.BatchNorm2d) for one in program.network.modules()) == sum(
        isinstance(one, nn.BatchNorm2d) for one in network.network.modules()
    )
    assert_is_the_same(network, program)


def test_representations_between_convolution_and_batch_norm_stay_what_they_are() -> None:
    torch.manual_seed(0)
    layout = Layout(("blocks.0",), (("blocks.1",), ("blocks.2", "blocks.3")), ())
    network = SectionedNetwork(randomised(Chain()), layout)
    network.freeze()
    assert_is_the_same(network, inference_copy(network, X))


def test_half_precision_holds_weights_once_and_leaves_the_rest() -> None:
    network = sectioned(Block(), Block())
    half = in_half_precision(network)
    assert half.network.get_parameter("head.weight").dtype == torch.bfloat16
    assert half.network.get_parameter("blocks.0.norm.weight").dtype == torch.float32
    assert {one.dtype for one in network.network.parameters()} == {torch.float32}


def test_images_go_channels_last_through_networks_that_take_them() -> None:
    network = sectioned(Block(), Block())
    assert takes_channels_last(network, X)
    trace = network.trace(*in_channels_last(X))
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in (*trace.inputs, *trace.outputs))


def test_networks_that_look_at_the_memory_stay_as_they_are() -> None:
    assert not takes_channels_last(sectioned(Block(), Block(), flatten=lambda x: x.view(len(x), -1)), X)
    in_memory_order = sectioned(
        Block(), Block(), flatten=lambda x: x.as_strided((len(x), x[0].numel()), (x[0].numel(), 1))
    )
    assert not takes_channels_last(in_memory_order, X)
    assert not takes_channels_last(sectioned(Block(), Block()), (X[0].double(),))


def test_looking_at_networks_draws_no_random_numbers_and_changes_no_statistics() -> None:
    network = sectioned(Block(), Block())
    network.network.train()
    before, statistics = torch.get_rng_state(), network.network.get_buffer("blocks.0.norm.running_mean").clone()
    takes_channels_last(network, X)
    network.freeze()
    inference_copy(network, X)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(network.network.get_buffer("blocks.0.norm.running_mean"), statistics)
