"""Sections of networks that nobody described, and students made by taking blocks out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import lit_core
from lit_core.measuring.cost import count_parameters
from lit_core.networks.block_selection import first_blocks_stay, importances
from lit_core.networks.discovery import check_composition, find_layout
from lit_core.networks.layout import NoSections
from lit_core.networks.parameters import parameter_counts
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.networks.surgery import cut
from lit_core.selection.blocks import FixedBlocks, select_blocks
from lit_spec import Part, Select

VIT: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "num_heads": 2, "num_classes": 5}


class Residual(nn.Module):
    """A block that takes an argument beside its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, scale: float = 0.0, *, bias: Tensor | None = None) -> Tensor:
        out: Tensor = x + scale * self.second(torch.relu(self.first(x)))
        return out if bias is None else out + bias


class Mine(nn.Module):
    """Somebody's own network, with a lone parameter and arguments for its blocks."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(6))
        self.embed = nn.Linear(3, 6)
        self.layers = nn.ModuleList(Residual(6) for _ in range(blocks))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.token
        biases = self.biases()
        for number, layer in enumerate(self.layers):
            x = layer(x, 0.5, bias=biases[number])
        logits: Tensor = self.head(x)
        return logits

    def biases(self) -> list[Tensor]:
        """Of each block."""
        return [self.token + 1] * len(self.layers)


class Given(Mine):
    """Gives its blocks what `kind` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.places = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = given = self.embed(x) + self.token
        shared, scale = torch.ones(6), 0.5
        for number, layer in enumerate(self.layers):
            bias = {
                "number": lambda n=number: self.token + n // 2,
                "module of each": lambda n=number: self.places[n](given),
                "changed": lambda: shared.mul_(0.5),
                "representation": lambda x=x: x.mean(dim=0),
                "equal": lambda: self.token * 2,
                "nan": lambda: self.token * float("nan"),
            }.get(self.kind, lambda: None)()
            x = layer(x, scale * (1 + number) if self.kind == "scale" else scale, bias=bias)
        logits: Tensor = self.head(x)
        return logits


class InPlace(Mine):
    """Works in the place of what its second block puts out."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.token
        for number, layer in enumerate(self.layers):
            x = layer(x, 0.5)
            if number == 1:
                x.mul_(3)
        logits: Tensor = self.head(x)
        return logits


def sectioned(network: nn.Module, x: Tensor, sections: Any = ()) -> SectionedNetwork:
    found = SectionedNetwork(network, find_layout(network, (x,), sections))
    found.freeze()
    return found


def test_stages_of_a_torchvision_resnet() -> None:
    layout = find_layout(torchvision.models.resnet18(), (torch.zeros(2, 3, 64, 64),))
    assert layout.stem == ("conv1", "bn1", "relu", "maxpool")
    assert layout.sections == tuple((f"layer{n}.0", f"layer{n}.1") for n in (1, 2, 3, 4))
    assert layout.head == ("avgpool", "fc")


def test_one_long_sequence_is_cut_into_even_pieces() -> None:
    network = timm.create_model("vit_tiny_patch16_224", depth=12, **VIT)
    layout = find_layout(network, (torch.zeros(2, 3, 8, 8),))
    assert [len(section) for section in layout.sections] == [3, 3, 3, 3]
    assert layout.sections[0][0] == "blocks.0"
    assert layout.stem == ("cls_token", "pos_embed", "patch_embed", "pos_drop", "patch_drop", "norm_pre")
    assert set(layout.head) == {"norm", "fc_norm", "head_drop", "head"}


def test_a_flat_sequence_falls_into_its_stages_and_is_numbered_anew() -> None:
    network = torchvision.models.mobilenet_v2()
    layout = find_layout(network, (torch.zeros(2, 3, 64, 64),))
    assert layout.sections[0] == ("features.2", "features.3")
    student = copy.deepcopy(network).eval()
    left = cut(student, layout, [[0]] * 5)
    assert left.sections == tuple((f"features.{n}",) for n in (2, 3, 4, 5, 6))
    assert left.head[0] == "features.7"
    assert student(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)
    kept = student.get_submodule("features.3").state_dict()
    assert all(torch.equal(kept[k], v) for k, v in network.get_submodule("features.4").state_dict().items())


def test_containers_in_one_another_are_numbered_anew_from_the_inside() -> None:
    network = timm.create_model("ghostnet_050").eval()
    x = torch.randn(2, 3, 64, 64)
    layout = find_layout(network, (x,))
    assert ("blocks.1", "blocks.2") in layout.sections
    assert layout.sections[-1][:2] == ("blocks.8.0", "blocks.8.1")
    student = copy.deepcopy(network)
    left = cut(student, layout, [[0]] * len(layout.sections))
    assert [section[0] for section in left.sections] == [
        "blocks.1",
        "blocks.2",
        "blocks.4.0",
        "blocks.4.1",
        "blocks.6.0",
    ]
    assert student(x).shape == (2, 1000)
    last = student.get_submodule("blocks.6.0").state_dict()
    assert all(torch.equal(last[k], v) for k, v in network.get_submodule("blocks.8.0").state_dict().items())


class Named(nn.Module):
    """A network whose code calls its blocks by name, and which answers twice while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 6)
        self.first, self.second, self.third = (Residual(6) for _ in range(3))
        self.head, self.auxiliary = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.second(self.first(self.embed(x)), 0.5)
        early = self.auxiliary(x)
        logits = self.head(self.third(x, 0.5, bias=torch.ones(6)))
        return (logits, early) if self.training else logits


def test_blocks_that_are_called_by_name_are_passed_over() -> None:
    network, x = Named(), torch.randn(4, 3)
    teacher = sectioned(network, x)
    assert teacher.layout.sections == (("first", "second", "third"),)
    student = shortened(teacher, [[0, 2]])
    assert student.layout.sections == (("first", "third"),)
    assert not any(name.startswith("second") for name in student.network.state_dict())
    embedded = network.embed(x)
    expected = network.head(network.third(network.first(embedded), 0.5, bias=torch.ones(6)))
    assert torch.equal(student.network.eval()(x), expected)
    (section,) = student.sections
    extras = student.extra_arguments_of(teacher.trace(x), 0)
    assert torch.equal(network.head(section(embedded, extras)), expected)


class TokenLater(Mine):
    """Puts a token in front at one block's number, as ConViT does."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for number, layer in enumerate(self.layers):
            if number == 4:
                x = torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)
            x = layer(x)
        logits: Tensor = self.head(x[:, 0])
        return logits


def test_blocks_whose_number_matters_stay() -> None:
    x = torch.randn(2, 5, 3)
    # Without a block before it, the token would come elsewhere or not at all.
    assert sectioned(TokenLater(7), x).layout.sections == (("layers.4", "layers.5", "layers.6"),)


def test_what_auxiliary_heads_say_is_not_the_answer() -> None:
    network, x = Named(), torch.randn(4, 3)
    student = shortened(sectioned(network, x), [[0, 2]])
    student.train([])
    assert isinstance(student.network(x), tuple)
    assert torch.equal(student.run(x), student.network(x)[0])
    assert torch.equal(student.trace(x).output, student.network(x)[0])


@pytest.mark.parametrize("name", ["regnety_002", "inception_v3"])
def test_timms_stages_of_attributes(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
        x = torch.zeros(2, 3, 299, 299)
    paths = [section[0] for section in find_layout(network, (x,)).sections]
    assert paths == {"regnety_002": ["s3.b1", "s4.b1"], "inception_v3": ["Mixed_5c", "Mixed_6a", "Mixed_7b"]}[name]


@pytest.mark.parametrize("name", ["densenet121", "vgg11_bn"])
def test_a_network_without_blocks_that_can_go_is_refused(name: str) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    reason = "changes the shape" if name == "densenet121" else "no section was found"
    with pytest.raises(NoSections, match=reason):
        find_layout(network, (torch.zeros(2, 3, 64, 64, device="meta"),))


def test_named_sections_are_checked() -> None:
    network, x = Mine(), torch.randn(2, 3)
    assert find_layout(network, (x,), ["layers"]).sections == (("layers.0", "layers.1", "layers.2", "layers.3"),)
    halves = [["layers.0", "layers.1"], ["layers.2", "layers.3"]]
    assert find_layout(network, (x,), halves).sections == tuple(map(tuple, halves))
    for wrong, reason in (
        (["nowhere"], "no module 'nowhere'"),
        ([["layers.0", "layers.2"]], "not run on the output of layers.0"),
        ([["layers.0"], ["layers.0"]], "in two sections"),
        (["head"], "has no blocks"),
    ):
        with pytest.raises(NoSections, match=reason):
            find_layout(network, (x,), wrong)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())
    assert network.training


def test_a_students_section_is_given_what_the_teachers_blocks_were_given() -> None:
    torch.manual_seed(0)
    teacher = sectioned(Mine(), x := torch.randn(5, 3))
    student = shortened(teacher, [[0, 2]])
    taught = teacher.trace(x)
    assert [extra.args for extra in taught.extra_arguments[0]] == [(0.5,)] * 4
    own = student.sections[0](taught.inputs[0], student.extra_arguments_of(taught, 0))
    first, third = teacher.sections[0][0], teacher.sections[0][2]
    bias = torch.full((6,), 2.0)
    wanted = third(first(taught.inputs[0], 0.5, bias=bias), 0.5, bias=bias)
    assert torch.equal(own, wanted)


@pytest.mark.parametrize("kind", ["number", "module of each", "changed", "scale"])
def test_blocks_that_are_given_what_goes_by_their_number_are_of_no_section(kind: str) -> None:
    """A block that moves up would be given another's."""
    x, network = torch.randn(5, 3), Given(kind)
    with pytest.raises(NoSections, match=r"layers\.\d gets other arguments than the block before it"):
        find_layout(network, (x,), [["layers.0", "layers.1"], ["layers.2", "layers.3"]])
    with pytest.raises(NoSections, match=r"layers\.\d gets other arguments than the block before it"):
        find_layout(network, (x,))
    with pytest.raises(NotImplementedError, match="meta"), torch.device("meta"):
        find_layout(Given(kind), (torch.zeros(2, 3),))


@pytest.mark.parametrize("kind", ["representation", "equal", "nan", "none"])
def test_blocks_may_be_given_what_goes_by_no_number(kind: str) -> None:
    x, network = torch.randn(5, 3), Given(kind)
    teacher = sectioned(network, x)
    assert teacher.layout.sections == (("layers.0", "layers.1", "layers.2", "layers.3"),)
    if kind == "none":
        with torch.device("meta"):
            assert find_layout(Given(kind), (torch.zeros(2, 3),)).sections == teacher.layout.sections


class Keeping(Mine):
    """Works in the place of an argument after it has given it to a block."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.token
        bias = torch.ones(6)
        for layer in self.layers:
            x = layer(x, 0.5, bias=bias)
        bias.mul_(0)
        logits: Tensor = self.head(x)
        return logits


def test_arguments_are_captured_as_they_were() -> None:
    taught = sectioned(Keeping(), x := torch.randn(5, 3)).trace(x)
    assert all(torch.equal(extra.kwargs["bias"], torch.ones(6)) for extra in taught.extra_arguments[0])


def test_a_layer_that_works_in_place_parts_two_sections() -> None:
    torch.manual_seed(0)
    teacher = sectioned(network := InPlace(), x := torch.randn(5, 3))
    assert teacher.layout.sections == (("layers.0", "layers.1"), ("layers.2", "layers.3"))
    taught = teacher.trace(x)
    assert not taught.is_chain
    first = network.embed(x) + network.token
    second = network.layers[1](network.layers[0](first, 0.5), 0.5)
    assert torch.equal(taught.outputs[0], second)
    assert torch.equal(taught.inputs[1], 3 * second)
    with pytest.raises(NoSections, match=r"layers\.2 is not run on the output of layers\.1"):
        find_layout(network, (x,), ["layers"])


class Flat(nn.Module):
    """Convolutions and activations side by side."""

    def __init__(self, *activations: nn.Module) -> None:
        super().__init__()
        layers = [(nn.Conv2d(4, 4, 3, padding=1), activation) for activation in activations]
        self.body = nn.Sequential(*(module for pair in layers for module in pair))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        (["body"], r"body\.1 \(ReLU\) has no convolution, linear"),
        ([["body.0", "body.1", "body.2"]], r"body\.1 \(ReLU\) has no convolution, linear"),
        ([["body.0", "body.2"], ["body.4", "body.6"]], r"body\.2 is not run on the output of body\.0"),
        ([["body.0", "body.2", "body.4", "body.6"]], r"body\.2 is not run on the output of body\.0"),
    ],
)
def test_what_lies_between_two_layers_is_not_left_out(
    inplace: bool, sections: list[str | list[str]], reason: str
) -> None:
    with pytest.raises(NoSections, match=reason):
        find_layout(Flat(*(nn.ReLU(inplace) for _ in range(4))), (torch.randn(2, 4, 8, 8),), sections)


def test_an_activation_that_is_in_a_block_stays_with_it() -> None:
    network, x = Flat(), torch.randn(2, 4, 8, 8)
    network.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(3)))
    teacher = SectionedNetwork(network.eval(), find_layout(network, (x,), ["body"]))
    check_composition(teacher, x)
    student = shortened(teacher, [[0, 2]])
    assert [type(module) for module in student.network.modules() if not list(module.children())] == [
        nn.Conv2d,
        nn.ReLU,
        nn.Conv2d,
        nn.ReLU,
        nn.Linear,
    ]


class Untraceable(Mine):
    """Changes what a block puts out in a way that torch doesn't record."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.token
        for layer in self.layers:
            x = layer(x, 0.5)
            x.data.relu_()
        logits: Tensor = self.head(x)
        return logits


def test_sections_run_by_themselves_give_what_they_give_in_the_network() -> None:
    torch.manual_seed(0)
    for network in (Mine(), InPlace(), Keeping()):
        check_composition(sectioned(network, x := torch.randn(5, 3)), x)
    with pytest.raises(NoSections, match=r"layers\.0, .* does something between them"):
        check_composition(sectioned(Untraceable(), x := torch.randn(5, 3)), x)


class Skipping(Mine):
    """Puts the second block's output into its head too."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.token
        outputs = []
        for layer in self.layers:
            x = layer(x, 0.5)
            outputs.append(x)
        logits: Tensor = self.head(outputs[1] + x)
        return logits


def test_named_sections_whose_blocks_are_needed_elsewhere_are_refused() -> None:
    with pytest.raises(NoSections, match=r"without the blocks after layers\.0 the network no longer runs"):
        find_layout(Skipping(), (torch.randn(2, 3),), ["layers"])


class Dropping(Mine):
    """Has dropouts of its own before the blocks, in them, and after them, and one in its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late, self.shared = nn.Dropout(0.5), nn.Dropout(0.5), nn.Dropout(0.5)
        for layer in self.layers:
            layer.add_module("drop", self.shared)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.early(self.embed(x) + self.token))
        for layer in self.layers:
            x = layer(x, 0.5)
        logits: Tensor = self.head(self.late(nn.functional.dropout(x, 0.5, self.training)))
        return logits


def test_dropouts_are_frozen_with_their_part() -> None:
    student = shortened(sectioned(Dropping(), torch.randn(2, 3)), [[0, 1]])
    own: Any = student.network
    student.train([Part.STEM])
    assert (own.early.training, own.late.training, own.shared.training, own.training) == (False, True, True, True)
    student.train([Part.STEM, Part.HEAD])
    # What the blocks use as well is theirs.
    assert (own.early.training, own.late.training, own.shared.training, own.training) == (False, False, True, False)
    assert own.layers[0].training
    student.train([])
    assert (own.early.training, own.late.training, own.training) == (True, True, True)


class LeavingOut(Mine):
    """Leaves its last block out while it is trained."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.token
        for layer in list(self.layers)[: -1 if self.training else None]:
            x = layer(x, 0.5)
        logits: Tensor = self.head(x)
        return logits


def test_a_block_that_is_not_run_is_told() -> None:
    student = shortened(sectioned(LeavingOut(), x := torch.randn(2, 3)), [[0, 1, 3]])
    student.train([])
    with pytest.raises(NoSections, match=r"layers\.2 was not run in a forward pass"):
        student.trace(x)


def test_a_transformer_of_nested_tensors_is_refused_with_advice() -> None:
    class Masked(nn.Module):
        def __init__(self, **more: Any) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 4, **more)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.zeros(x.shape[:2], dtype=torch.bool)
            mask[:, -1] = True
            logits: Tensor = self.head(self.encoder(x, src_key_padding_mask=mask)[:, 0])
            return logits

    x = torch.randn(3, 5, 8)
    with pytest.raises(NoSections, match="enable_nested_tensor=False"):
        find_layout(Masked(), (x,))
    assert len(find_layout(Masked(enable_nested_tensor=False), (x,)).sections[0]) == 4


def test_parameters_that_were_frozen_stay_so() -> None:
    network: Any = Mine()
    network.token.requires_grad_(False)
    network.layers[0].first.weight.requires_grad_(False)
    network.register_parameter("steps", nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False))
    teacher = sectioned(network, torch.randn(2, 3))
    student = shortened(teacher, [[0, 1]])
    student.train([Part.HEAD])
    assert [name for name, one in student.network.named_parameters() if not one.requires_grad] == [
        "token",
        "steps",
        "layers.0.first.weight",
        "head.weight",
        "head.bias",
    ]
    student.train([])
    assert all(one.requires_grad for one in student.part(Part.HEAD)[0].parameters())  # type: ignore[union-attr]
    assert not any(one.requires_grad for one in teacher.network.parameters())


def test_lone_parameters_are_frozen_with_their_part() -> None:
    student = shortened(sectioned(Mine(), torch.randn(2, 3)), [[0, 1]])
    student.train([Part.STEM])
    network: Any = student.network
    assert not network.token.requires_grad
    assert not network.embed.weight.requires_grad
    assert network.head.weight.requires_grad
    assert network.layers[0].first.weight.requires_grad


def test_the_teacher_stays_as_it_is() -> None:
    torch.manual_seed(0)
    teacher = sectioned(network := Mine(), x := torch.randn(5, 3))
    before = network(x)
    student = shortened(teacher, [[1, 3]])
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(1)
    assert torch.equal(network(x), before)
    assert len(list(network.layers)) == 4


def test_chances_of_stochastic_depth_are_spread_as_they_were() -> None:
    network = timm.create_model("vit_tiny_patch16_224", depth=6, drop_path_rate=0.5, **VIT)
    layout = find_layout(network, (torch.zeros(2, 3, 8, 8),))
    cut(network, layout, [[0, 1], [0]])
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.blocks]
    assert rates == pytest.approx([0.0, 0.25, 0.5])


@pytest.mark.parametrize("kept", [[[0, 1]], [[0], [], [0], [0]], [[1, 0]] * 4, [[0, 2]] * 4])
def test_what_is_no_choice_of_blocks_is_refused(kept: list[list[int]]) -> None:
    network = torchvision.models.resnet18()
    layout = find_layout(network, (torch.zeros(2, 3, 64, 64),))
    with pytest.raises(ValueError, match="kept_blocks"):
        cut(network, layout, kept)


def test_the_blocks_that_change_most_are_kept() -> None:
    torch.manual_seed(0)
    teacher = sectioned(network := Mine(), x := torch.randn(7, 3))
    with torch.no_grad():
        for number, layer in enumerate(network.layers):
            assert isinstance(layer, Residual)
            layer.second.weight.mul_(100.0 if number == 1 else 0.0)
    batches = [(x[:4],), (x[4:],)]
    importance = importances(teacher, batches)[0]
    whole = importances(teacher, [(x,)])[0]
    assert importance == pytest.approx(whole, rel=1e-4)
    assert max(range(4), key=lambda place: importance[place] or 0) == 1
    chosen = select_blocks(teacher, FixedBlocks([1]), Select.IMPORTANCE, batches)
    assert chosen.kept_blocks == [[1]]
    assert select_blocks(teacher, FixedBlocks([2]), Select.FIRST, ()).kept_blocks == [[0, 1]]
    assert select_blocks(teacher, FixedBlocks([2]), Select.EVEN, ()).kept_blocks == [[0, 2]]
    with pytest.raises(ValueError, match="needs data"):
        select_blocks(teacher, FixedBlocks([1]), Select.IMPORTANCE, ())


def test_a_block_that_changes_the_shape_always_stays() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 32, 32)
    teacher = sectioned(torchvision.models.resnet18(), x)
    chosen = select_blocks(teacher, FixedBlocks([1, 1, 1, 1]), Select.IMPORTANCE, [(x,)])
    assert chosen.importance is not None
    assert chosen.importance[1][0] is None
    assert chosen.kept_blocks[1:] == [[0], [0], [0]]
    assert first_blocks_stay(teacher, (x,)) == [False, True, True, True]


class Shared(nn.Module):
    """Four blocks of two layers; the last three have their second layer in common."""

    def __init__(self) -> None:
        super().__init__()

        def block(second: nn.Linear) -> nn.Sequential:
            return nn.Sequential(nn.Linear(3, 3), second, nn.ReLU())

        common = nn.Linear(3, 3)
        self.layers = nn.Sequential(block(nn.Linear(3, 3)), block(common), block(common), block(common))
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(x))
        return logits


def test_shared_weights_count_once_wherever_parameters_are_counted() -> None:
    """In the options of an inspection, for `compress(ratio=)` and in the network that is cut out."""
    x = torch.randn(2, 3)
    teacher = sectioned(Shared(), x, ["layers"])
    counts = parameter_counts(teacher.network, teacher.layout.sections)
    # Each layer has 12 parameters, and the head has 8.
    assert (counts.total, counts.blocks) == (80, [[24, 12, 12, 12]])
    assert [(group.blocks, group.parameters) for group in counts.shared] == [([(0, 1), (0, 2), (0, 3)], 12)]
    for blocks, left in (([1], 32), ([2], 56), ([3], 68), ([4], 80)):
        student = shortened(teacher, select_blocks(teacher, FixedBlocks(blocks), Select.EVEN, ()).kept_blocks)
        assert counts.student(sum(blocks), blocks).parameters == count_parameters(student.network) == left
    schedule = {"lit": {"epochs": 1}, "fine_tune": {"epochs": 0}}
    made = lit_core.compress(
        Shared(), [x], ratio=80 / 56, sections=["layers"], select="even", alpha=0.0, schedule=schedule
    )
    assert (made.report["student"]["blocks"], made.report["student"]["parameters"]) == ([2], 56)
    assert made.report["ratios"]["parameters"] == pytest.approx(counts.student(2, [2]).parameters_ratio, abs=1e-3)
