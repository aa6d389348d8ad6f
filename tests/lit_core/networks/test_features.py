"""The features of a classifier: the input of the layer that puts out its logits."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_core.networks.families import family_of
from lit_core.networks.features import FeatureReader
from lit_core.networks.sections import SectionedNetwork
from lit_spec import Architecture, Modality, Output
from tests.lit_core.networks.test_discovery import VIT, Mine, sectioned


def resnet() -> tuple[SectionedNetwork, Tensor]:
    options: dict[str, Any] = {"width": 4, "shortcut": "A", "head": "fc", "projection": "downsample"}
    architecture = Architecture(
        family="resnet_cifar", depth=8, blocks=[1, 1, 1], channels=2, classes=5, options={**options}
    )
    family = family_of(architecture)
    return SectionedNetwork(family.build(architecture), family.layout(architecture)), torch.randn(3, 2, 8, 8)


def vit() -> tuple[SectionedNetwork, Tensor]:
    x = torch.randn(3, 3, 8, 8)
    return sectioned(timm.create_model("vit_tiny_patch16_224", depth=2, **VIT), x), x


def vdcnn() -> tuple[SectionedNetwork, Tensor]:
    options: dict[str, Any] = {"vocabulary_size": 60, "embedding_size": 3, "k": 2, "hidden_1": 6, "hidden_2": 7}
    options |= {"stem_width": 3, "width_1": 3, "width_2": 4, "width_3": 4, "width_4": 6}
    options |= {"downsampling": "maxpool", "shortcut": False, "bias": False, "least_length": 8}
    architecture = Architecture(
        family="vdcnn", modality=Modality.TEXT, channels=None, depth=9, blocks=[1, 1, 1, 1], classes=5, options=options
    )
    family = family_of(architecture)
    x = torch.randint(0, 60, (3, 32))
    return SectionedNetwork(family.build(architecture), family.layout(architecture)), x


@pytest.mark.parametrize(("made", "width"), [(resnet, 16), (vit, 24), (vdcnn, 7)], ids=["resnet", "vit", "vdcnn"])
def test_the_logits_are_a_linear_function_of_the_features(made: Any, width: int) -> None:
    torch.manual_seed(0)
    network, x = made()
    network.network.eval()
    reader = FeatureReader(Output.LOGITS)
    output, features = reader.run(network, x)
    assert features.shape == (3, width)
    (last,) = [
        module
        for module in network.network.modules()
        if isinstance(module, nn.Linear) and module.in_features == width and module.out_features == 5
    ]
    torch.testing.assert_close(last(features), output)
    traced, same = reader.trace(network, x)
    assert torch.equal(same, features)
    assert torch.equal(traced.output, output)


class Scaled(Mine):
    """No layer's output is the network's."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("output", Output)
def test_without_such_a_layer_the_output_is_the_features(output: Output) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    network = sectioned(Scaled() if output == Output.LOGITS else Mine(), x)
    made, features = FeatureReader(output).run(network, x)
    assert torch.equal(features, made)


class AlsoBefore(Mine):
    """Runs its head twice before and once after the call that gives the output, and by name."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.token
        self.first = self.head(input=x)
        for layer in self.layers:
            x = layer(x, 0.5)
        self.seen = x
        logits: Tensor = self.head(input=x)
        self.later = self.head(input=torch.zeros_like(x))
        return logits


def test_of_a_layer_that_is_run_several_times_the_call_that_gives_the_output_counts() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    network = sectioned(AlsoBefore(), x)
    for _ in range(2):
        _, features = FeatureReader(Output.LOGITS).run(network, x)
        assert torch.equal(features, network.network.seen)


def test_looking_for_the_layer_changes_nothing_in_training() -> None:
    torch.manual_seed(0)
    network, x = resnet()
    network.train([])
    before = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    drawn = torch.get_rng_state()
    reader = FeatureReader(Output.LOGITS)
    with reader._reading(network, (x,)):
        pass
    assert all(module.training for module in network.network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_features_have_gradients_from_the_first_step_in_bfloat16() -> None:
    torch.manual_seed(0)
    network, x = resnet()
    network.train([])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, features = FeatureReader(Output.LOGITS).run(network, x)
        F.mse_loss(features, torch.zeros_like(features)).backward()
    first = network.network.get_submodule("conv1")
    assert isinstance(first.weight, Tensor)
    assert first.weight.grad is not None


def test_outputs_that_are_not_finite_have_features_all_the_same() -> None:
    network, x = resnet()
    network.network.eval()
    assert FeatureReader(Output.LOGITS).run(network, x * torch.nan)[1].shape == (3, 16)
