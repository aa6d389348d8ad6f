"""PRACTISE: where adaptors go, what they can recover, and which blocks are dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from benchmarks.adaptors import Gap, adaptors_around
from benchmarks.practise import (
    Candidate,
    Recipe,
    TensorBatches,
    blocks_to_keep,
    droppable_blocks,
    latency_reductions,
    mimicking_student,
    practise,
    rated_blocks,
)
from lit_core.networks.discovery import find_layout
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened

QUICK = Recipe(iterations=40, fine_tuning_iterations=30, fine_tuning_rate=0.01)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv2(torch.relu(self.norm(self.conv1(x)))))


class Mixing(nn.Module):
    """A block that a linear map could replace."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class Down(nn.Sequential):
    def __init__(self, width: int, wider: int) -> None:
        super().__init__(
            nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(wider, wider, 3, padding=1), nn.ReLU()
        )


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stage1 = nn.Sequential(Down(8, 8), Residual(8), Mixing(8))
        self.stage2 = nn.Sequential(Down(8, 12), Residual(12), Residual(12))
        self.head = nn.Linear(12, 5)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(torch.relu(self.stem(x)))).mean((2, 3)))


class EncoderLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        attended = torch.softmax(self.query(x) @ x.transpose(1, 2), dim=-1) @ self.value(x)
        x = self.norm1(x + self.out(attended))
        return self.norm2(x + self.narrow(torch.relu(self.wide(x))))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.layers = nn.ModuleList(EncoderLayer(8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def sectioned(network: nn.Module, sample: Tensor) -> SectionedNetwork:
    teacher = SectionedNetwork(network.eval(), find_layout(network, (sample,)))
    teacher.freeze()
    return teacher


def without(teacher: SectionedNetwork, section: int, block: int) -> SectionedNetwork:
    kept = [[b for b in range(len(one)) if (n, b) != (section, block)] for n, one in enumerate(teacher.sections)]
    student = shortened(teacher, kept)
    student.freeze()
    return student


@pytest.fixture
def teacher() -> SectionedNetwork:
    torch.manual_seed(1)
    return sectioned(Convolutional(), torch.randn(2, 3, 16, 16))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def adapted(network: nn.Module) -> dict[str, set[str]]:
    return {
        path: {type(adaptor).__name__ for adaptor in module.parametrizations.weight}
        for path, module in network.named_modules()
        if hasattr(module, "parametrizations")
    }


@pytest.mark.parametrize(
    ("name", "dropped", "after", "before"),
    [
        # The places of the published code, for layer3.2 and for features.8, by the student's own numbers.
        (
            "resnet34",
            (2, 2),
            {"layer3.0.conv2", "layer3.0.downsample.0", "layer3.1.conv2"},
            {*(f"layer3.{n}.conv1" for n in (2, 3, 4)), "layer4.0.conv1", "layer4.0.downsample.0"},
        ),
        (
            "mobilenet_v2",
            (2, 1),
            {"features.7.conv.2"},
            {f"features.{n}.conv.0.0" for n in (8, 9, 10)},
        ),
    ],
)
def test_adaptors_are_where_the_published_code_has_them(
    name: str, dropped: tuple[int, int], after: set[str], before: set[str]
) -> None:
    x = torch.randn(1, 3, 64, 64)
    student = without(sectioned(torchvision.models.get_model(name), x), *dropped)
    adaptors = adaptors_around(student, [Gap(*dropped)], (x,))
    assert adapted(student.network) == {path: {"_After"} for path in after} | {path: {"_Before"} for path in before}
    assert len(adaptors) == len(after) + len(before)


def test_squeeze_and_excitation_and_depthwise_convolutions_have_no_adaptors() -> None:
    x = torch.randn(1, 3, 64, 64)
    student = without(sectioned(torchvision.models.efficientnet_b0(), x), 2, 1)
    adaptors_around(student, [Gap(2, 1)], (x,))
    assert adapted(student.network) == {
        "features.4.0.block.3.0": {"_After"},
        "features.4.1.block.0.0": {"_Before"},
        "features.5.0.block.0.0": {"_Before"},
    }


def test_a_folded_adaptor_is_the_1x1_convolution_that_it_stands_for(teacher: SectionedNetwork, images: Tensor) -> None:
    student, explicit = without(teacher, 0, 1), without(teacher, 0, 1)
    adaptors = adaptors_around(student, [Gap(0, 1)], (images[:1],))
    with torch.no_grad():
        for matrix in adaptors.parameters():
            matrix.add_(0.3 * torch.randn_like(matrix))
    for path in adapted(student.network):
        layer = explicit.network.get_submodule(path)
        for adaptor in student.network.get_submodule(path).parametrizations.weight:
            convolution = nn.Conv2d(*adaptor.matrix.shape, 1, bias=False)
            convolution.weight.data = adaptor.matrix.data[:, :, None, None]
            if type(adaptor).__name__ == "_Before":
                layer.register_forward_pre_hook(lambda _module, args, run=convolution: run(args[0]))
            else:
                layer.register_forward_hook(lambda _module, _args, output, run=convolution: run(output))
    adaptors.fold()
    assert adapted(student.network) == {}
    assert student.network.state_dict().keys() == explicit.network.state_dict().keys()
    with torch.no_grad():
        made, wanted = student.network(images), explicit.network(images)
        assert not torch.allclose(wanted, without(teacher, 0, 1).network(images), atol=1e-3)
    assert torch.allclose(made, wanted, atol=1e-5)


def test_adaptors_recover_a_block_that_is_a_linear_map(teacher: SectionedNetwork, images: Tensor) -> None:
    found = rated_blocks(teacher, TensorBatches((images,), 8), [images], replace(QUICK, iterations=200))
    linear = next(one for one in found if (one.section, one.block) == (0, 2))
    other = next(one for one in found if (one.section, one.block) == (0, 1))
    assert linear.damage > 0
    assert linear.recoverability < 0.1 * linear.damage
    assert other.recoverability > 0.2 * other.damage


def test_a_block_that_does_nothing_is_dropped_first(teacher: SectionedNetwork, images: Tensor) -> None:
    idle = teacher.network.get_submodule("stage2.1.conv2")
    assert isinstance(idle, nn.Conv2d)
    assert idle.bias is not None
    nn.init.zeros_(idle.weight)
    nn.init.zeros_(idle.bias)
    made = practise(teacher, 1, TensorBatches((images,), 8), [images], QUICK)
    assert made.kept == [[0, 1, 2], [0, 2]]
    assert {(one.section, one.block) for one in made.candidates} == {(0, 1), (0, 2), (1, 1), (1, 2)}
    assert type(made.student) is Convolutional
    assert [type(block) for block in made.student.stage2] == [Down, Residual]
    assert not made.student.training


def test_fine_tuning_brings_the_features_nearer_and_leaves_the_classifier(
    teacher: SectionedNetwork, images: Tensor
) -> None:
    kept = [[0, 2], [0, 2]]

    def distance(network: nn.Module) -> float:
        with torch.no_grad():
            made, wanted = (one.stage2(one.stage1(torch.relu(one.stem(images)))) for one in (network, teacher.network))
        return float((made - wanted).square().mean())

    def trained(**settings: object) -> nn.Module:
        return mimicking_student(teacher, kept, TensorBatches((images,), 8), replace(QUICK, **settings))

    untrained = distance(shortened(teacher, kept).network.eval())
    folded = trained(fold_adaptors=True, fine_tuning_iterations=0)
    assert distance(folded) < 0.9 * untrained
    tuned = trained(training_mode=False)
    assert distance(tuned) < 0.9 * untrained
    assert torch.equal(tuned.head.weight, teacher.network.head.weight)
    running = "stage1.1.norm.running_mean", "stage2.1.norm.running_mean"
    before, frozen, updated = (
        {name: tensor for name, tensor in one.state_dict().items() if name in running}
        for one in (shortened(teacher, kept).network, tuned, trained())
    )
    assert before.keys() == frozen.keys() == updated.keys() == {running[1]}
    assert torch.equal(before[running[1]], frozen[running[1]])
    assert not torch.equal(before[running[1]], updated[running[1]])
    again = trained(training_mode=False)
    assert all(map(torch.equal, tuned.state_dict().values(), again.state_dict().values()))


def test_an_encoder_has_linear_adaptors_and_padding_does_not_count() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (16, 6))
    teacher = sectioned(Encoder(), ids[:2])
    assert [len(section) for section in teacher.sections] == [4]
    student = without(teacher, 0, 2)
    adaptors_around(student, [Gap(0, 2)], (ids[:1],))
    assert adapted(student.network) == {
        "layers.0.narrow": {"_After"},
        "layers.1.narrow": {"_After"},
        "layers.2.query": {"_Before"},
        "layers.2.value": {"_Before"},
    }
    recipe = Recipe(iterations=0, first_blocks=True, positions=lambda inputs: torch.arange(6).expand_as(inputs[0]) < 4)
    found = rated_blocks(teacher, [ids], [ids], recipe)
    assert [one.block for one in found] == [0, 1, 2, 3]
    with torch.no_grad():
        features = []
        for layers in (teacher.network.layers, without(teacher, 0, 2).network.layers):
            x = teacher.network.embedding(ids)
            for layer in layers:
                x = layer(x)
            features.append(x[:, :4])
    assert found[2].damage == pytest.approx(float((features[0] - features[1]).square().mean()), rel=1e-5)
    trained = rated_blocks(teacher, [ids], [ids], replace(recipe, iterations=60, learning_rate=0.05))
    assert all(after.recoverability < after.damage for after in trained)


def test_lowest_scores_are_dropped_and_every_section_keeps_a_block(teacher: SectionedNetwork, images: Tensor) -> None:
    assert droppable_blocks(teacher, (images[:2],)) == [(0, 1), (0, 2), (1, 1), (1, 2)]

    def candidate(section: int, block: int, recoverability: float, reduction: float) -> Candidate:
        return Candidate(section, block, 1.0, recoverability, reduction)

    rated = [candidate(0, 1, 0.2, 40.0), candidate(0, 2, 0.1, 10.0), candidate(1, 1, 0.9, 10.0)]
    rated.append(candidate(1, 2, float("nan"), 10.0))
    assert blocks_to_keep(teacher, rated, 1) == [[0, 2], [0, 1, 2]]
    assert blocks_to_keep(teacher, rated, 3) == [[0], [0, 2]]
    with pytest.raises(ValueError, match="only 4 blocks can be left out"):
        blocks_to_keep(teacher, rated, 5)
    every = [candidate(0, block, 0.1 * block, 1.0) for block in range(3)]
    assert blocks_to_keep(teacher, every, 2) == [[2], [0, 1, 2]]


def test_latency_is_shared_out_among_the_blocks(teacher: SectionedNetwork, images: Tensor) -> None:
    shares = latency_reductions(teacher, (images,))
    assert len(shares) == 6
    assert all(share > 0 for share in shares.values())
    assert sum(shares.values()) < 100


def test_batches_are_shuffled_and_augmented_anew_in_each_pass() -> None:
    rows = torch.arange(10)

    def augmented(inputs: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        return (inputs[0] + 100 * torch.randint(1, 9, (1,), generator=generator),)

    one, same, other = (TensorBatches((rows,), 4, seed, augmented) for seed in (0, 0, 1))
    first, second = [[batch.tolist() for (batch,) in one] for _ in range(2)]
    assert [len(batch) for batch in first] == [4, 4]
    assert first != second
    assert first == [batch.tolist() for (batch,) in same]
    assert first != [batch.tolist() for (batch,) in other]
    assert all(value >= 100 for batch in first for value in batch)
    assert len({value % 100 for batch in first for value in batch}) == 8
    assert [len(batch) for (batch,) in TensorBatches((rows,), 64)] == [10]


def test_a_teacher_without_gradients_is_refused(images: Tensor) -> None:
    teacher = sectioned(Convolutional().requires_grad_(False), images[:2])
    with pytest.raises(ValueError, match="requires_grad_"):
        mimicking_student(teacher, [[0, 1], [0, 1]], [images], QUICK)
