"""`lit_core.compress`: any module and any batches, without a server."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import lit_core
from lit_core.compressed import Compressed
from lit_core.data import Interface, load_dataset
from lit_core.measuring.scores import class_logits
from lit_core.networks.families.resnet_cifar import ResNet
from lit_core.networks.layout import NoSections
from lit_core.networks.teacher import inspect_teacher, read_teacher
from lit_core.training.losses import kd_loss
from lit_core.training.setbacks import Diverged
from lit_spec import DatasetRequest, JobRequest, Schedule, Split, resolve
from lit_spec.requests.presets import Preset
from tests.lit_core.networks.test_discovery import Mine, sectioned

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
    """A copy of a network that is trained once."""
    return copy.deepcopy(_trained())


@cache
def _trained() -> nn.Module:
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


def misled(teacher: nn.Module, validation: Any, rate: float = 0.05) -> Compressed:
    """A student that learns from wrong labels alone."""
    loader, _ = digits()
    wrong = [(x, (y + 1) % 10) for x, y in loader]
    schedule = {"lit": {"epochs": 2, "learning_rate": rate}, "fine_tune": {"epochs": 0}}
    changes = {"method": "kd", "alpha": 1, "schedule": schedule}
    return lit_core.compress(teacher, wrong, blocks=[2, 2], select="even", validation=validation, **changes)


def test_a_student_that_training_makes_worse_stays_untrained() -> None:
    teacher = trained()
    _, test = digits()
    report = misled(teacher, test).report
    assert report["epochs"][-1]["student_accuracy"] < report["validation"]["student_accuracy"]
    assert report["baselines"] == {"untrained": report["validation"]}, "the blocks of the rule are not repaired"
    assert report["outcome"] == "no-better-than-untrained"
    assert report["notes"][-1].startswith("the student is the untrained one")
    unlabelled = misled(teacher, [(x,) for x, _ in test]).report
    assert unlabelled["baselines"]["untrained"]["agreement"] == report["validation"]["agreement"]
    assert unlabelled["outcome"] == "no-better-than-untrained"


def test_without_validation_data_the_last_epoch_stays_and_nothing_is_said_of_its_worth() -> None:
    teacher = trained()
    _, test = digits()
    compressed = misled(teacher, None)
    report = compressed.report
    assert (report["baselines"], report["outcome"]) == (None, None)
    assert "give validation data" in report["notes"][-1]
    with torch.no_grad():
        answers = compressed.student(test[0][0]).argmax(dim=1)
    assert (answers == (test[0][1] + 1) % 10).float().mean() > 0.5, "the last epoch's, which has learnt what is wrong"


def test_data_that_no_rate_can_learn_from_is_a_failure_with_figures() -> None:
    teacher = trained()
    loader, _ = digits()
    (x, y), *_ = loader
    schedule = {"lit": {"epochs": 1, "learning_rate": 0.5}, "fine_tune": {"epochs": 0}}
    with pytest.raises(Diverged, match=r"in epoch 1 of the lit phase: .* 0.0005, .* rates 0.5, 0.05, 0.005"):
        lit_core.compress(teacher, [(x, y), (x * math.nan, y)], blocks=[2, 2], schedule=schedule)


def test_an_unstable_training_goes_back_without_validation_data() -> None:
    teacher = trained()
    loader, test = digits()
    lit = {"epochs": 2, "learning_rate": 30.0, "schedule": {"kind": "constant"}}
    schedule = {"lit": lit, "fine_tune": {"epochs": 0}}
    compressed = lit_core.compress(teacher, loader, blocks=[2, 2], method="kd", schedule=schedule)
    assert compressed.report["setbacks"]
    assert [epoch["epoch"] for epoch in compressed.report["epochs"]] == [1, 2]
    with torch.no_grad():
        answers = compressed.student(test[0][0]).argmax(dim=1)
    assert (answers == test[0][1]).float().mean() > 0.5


def test_a_student_at_chance_is_said_to_be() -> None:
    teacher = trained()
    _, test = digits()
    nn.init.zeros_(teacher.mine.head.weight)  # type: ignore[union-attr, arg-type]
    report = misled(teacher, test, rate=1e-12).report
    assert report["outcome"] == "at-chance"
    assert report["notes"][-1].startswith("the student is at chance")


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


def test_an_embedding_network_follows_its_teachers_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    data = [torch.randn(16, 3, generator=generator) for _ in range(8)]
    validation = [torch.randn(64, 3, generator=generator)]
    model = Mine().eval()
    for layer in model.layers:
        nn.init.normal_(layer.second.weight)  # type: ignore[union-attr, arg-type]
    model.head = nn.Linear(6, 5)
    made = lit_core.compress(
        model,
        data,
        depth=2,
        sections=["layers"],
        output="embedding",
        preset="few",
        validation=validation,
        schedule={"lit": {"epochs": 5, "learning_rate": 5e-3}},
    )
    report = made.report
    before, after = report["baselines"]["untrained"]["cosine"], report["validation"]["cosine"]
    assert set(report["validation"]) == {"cosine"}
    assert before < report["baselines"]["repaired"]["cosine"] <= after
    assert 1 - after < 0.1 * (1 - before)
    with torch.no_grad():
        own, taught = made.student(validation[0]), model(validation[0])
    assert after == pytest.approx(float(nn.functional.cosine_similarity(own, taught).mean()), abs=1e-5)
    assert report["outcome"] == "better-than-untrained"
    assert report["epochs"][0]["cosine"] < 1


def test_the_repaired_student_is_the_start_without_validation_data() -> None:
    torch.manual_seed(0)
    model = Mine().eval()
    data = [torch.randn(16, 3) for _ in range(4)]
    still = {"lit": {"epochs": 1, "learning_rate": 1e-12}, "fine_tune": {"epochs": 0}}
    states = []
    unrepaired: dict[str, Any] = {"kept": [[0, 3]]}
    for arguments in (unrepaired, {"depth": 2}, {**unrepaired, "repair": True}, {"depth": 2, "repair": False}):
        made = lit_core.compress(model, data, sections=["layers"], alpha=0.0, schedule=still, **arguments)
        assert made.report["baselines"] is None
        states.append((made.report["selection"]["kept"], made.student.state_dict()))
    teacher = model.state_dict()
    as_in_the_model = []
    for kept, state in states:
        last = teacher[f"layers.{kept[0][-1]}.second.weight"]
        as_in_the_model.append(torch.allclose(state["layers.1.second.weight"], last, atol=1e-6))
    assert as_in_the_model == [True, False, False, True]


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


def test_the_named_blocks_stay() -> None:
    torch.manual_seed(0)
    model = Mine().eval()
    still = {"lit": {"epochs": 1, "learning_rate": 1e-12}, "fine_tune": {"epochs": 0}}
    made = lit_core.compress(model, [torch.randn(4, 3)], kept=[[1, 3]], alpha=0.0, schedule=still)
    assert made.report["selection"] == {"select": None, "kept": [[1, 3]], "importance": None}
    assert made.report["student"]["blocks"] == [2]
    student, teacher = made.student.state_dict(), model.state_dict()
    for own, named in ((0, 1), (1, 3)):
        key = "second.weight"
        torch.testing.assert_close(student[f"layers.{own}.{key}"], teacher[f"layers.{named}.{key}"])


class Halving(nn.Module):
    """The first block halves the images, which no tensor shows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Halved(2 if number == 0 else 1) for number in range(3)))
        self.head = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(x).mean(dim=(2, 3)))
        return logits


class Halved(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, stride, 1), nn.Conv2d(2, 2, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(x).relu())
        return y


def test_a_first_block_that_changes_the_shape_must_be_named() -> None:
    data = [torch.randn(4, 2, 8, 8)]
    with pytest.raises(ValueError, match=r"^kept\.0: leaves out the first block"):
        lit_core.compress(Halving(), data, kept=[[1]], alpha=0.0, schedule=SCHEDULE)
    made = lit_core.compress(Halving(), data, kept=[[0, 2]], alpha=0.0, schedule=SCHEDULE)
    assert made.report["selection"]["kept"] == [[0, 2]]


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
        ({}, "give one of blocks"),
        ({"blocks": [1], "ratio": 2.0}, "give one of blocks"),
        ({"depth": 4, "alpha": 0.0}, r"a student of a model with blocks \[4\] has 1 to 3"),
        ({"blocks": [2], "select": "best"}, "give one of even, first, importance"),
        ({"blocks": [2], "taau": 4.0}, "taau: .*did you mean tau"),
        ({"blocks": [9], "alpha": 0.0}, r"the model has \[4\]"),
        ({"blocks": [2.5], "alpha": 0.0}, "blocks has 2.5, but counts blocks: give an integer"),
        ({"depth": 2.0, "alpha": 0.0, "select": "even"}, "depth has 2.0, but counts blocks: give an integer"),
        ({"kept": [[0]], "ratio": 2.0}, "give one of blocks"),
        ({"kept": [[0]], "select": "even", "alpha": 0.0}, "leave out one of them"),
        ({"kept": [[2, 0]], "alpha": 0.0}, r"kept.0: .*write \[0, 2\]"),
        ({"kept": [[0], [0]], "alpha": 0.0}, "kept: has 2 sections"),
        ({"kept": [[4]], "alpha": 0.0}, "kept.0: has the index 4"),
        ({"kept": [[0, 1, 2, 3]], "alpha": 0.0}, "kept names all blocks"),
        ({"ratio": 100.0, "alpha": 0.0}, r"ratio: asks for parameters_ratio 100, .* only 2\.\d+"),
        ({"blocks": [2], "method": "scratch"}, "for the service"),
        ({"blocks": [2], "alpha": 2.0}, "alpha"),
        ({"blocks": [2], "gamma": 1}, "gamma"),
        ({"blocks": [2], "alpha": 0.5}, "labels"),
        ({"blocks": [4], "alpha": 0.0}, "all that the model has"),
        ({"ratio": 0.9, "alpha": 0.0}, "ratio: parameters_ratio: .*greater than 1"),
        ({"blocks": [2], "alpha": 0.0, "select": "best"}, "select is 'best': give one of even"),
        ({"blocks": [2], "alpha": 0.0, "n_random": 8}, "n_random is only for the service"),
        ({"blocks": [2], "alpha": 0.0, "accept": {"max_accuracy_drop": 1.0}}, "accept is only for the service"),
        ({"blocks": [2], "alpha": 0.0, "time_limit_s": 5}, "time_limit_s is only for the service"),
        ({"blocks": [2], "alpha": 0.0, "schedule": {"batch_size": 8}}, "schedule.batch_size is only for the service"),
        ({"blocks": [2], "alpha": 0.0, "validation": []}, "validation must give batches"),
    ],
)
def test_what_does_not_fit_is_told(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        lit_core.compress(Mine(), [torch.randn(4, 3)], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        [],
        iter([]),
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


class Telling(Mine):
    """Puts out more than its logits."""

    def forward(self, x: torch.Tensor) -> Any:
        return {"logits": super().forward(x)}


class Normalised(Mine):
    """Can't be trained on a single sample."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Sequential(self.norm, nn.Linear(6, 2))


class Squeezing(Mine):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).squeeze(0)


def parametrised(kind: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = Mine()
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            kind(layer)
    return network


@pytest.mark.parametrize(
    ("model", "data", "arguments", "reason"),
    [
        (Telling(), [torch.randn(4, 3)], {}, r"in eval mode is a dict, not logits \(B, classes\)"),
        (Normalised(), [torch.randn(4, 3), torch.randn(1, 3)], {}, "a batch of one sample"),
        (Mine().requires_grad_(False), [torch.randn(4, 3)], {}, r"call model\.requires_grad_\(True\)"),
        (Mine(), [torch.randn(4, 3), torch.randn(0, 3)], {}, "an empty batch"),
        (Squeezing(), [torch.randn(4, 3), torch.randn(1, 3)], {}, "a batch of one sample"),
        (Mine(), [torch.randn(4, 3)], {"method": "at"}, "method: at needs representations"),
        (parametrised(nn.utils.weight_norm), [torch.randn(4, 3)], {}, "can't be copied"),
        (parametrised(weight_norm), [torch.randn(4, 3)], {"then": ["prune:0.5"]}, "no layer to prune"),
    ],
)
def test_what_a_model_cannot_do_is_told_before_the_training(
    model: nn.Module, data: list[torch.Tensor], arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        lit_core.compress(model, data, blocks=[2], alpha=0.0, **arguments)


def test_iterators_are_kept_and_endless_data_has_epochs_by_its_steps() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(4, 3) for _ in range(3)]
    listed = lit_core.compress(Mine(), batches, blocks=[2], alpha=0.0, schedule=SCHEDULE)
    torch.manual_seed(0)
    batches = [torch.randn(4, 3) for _ in range(3)]
    given = lit_core.compress(
        Mine(), (one for one in batches), blocks=[2], alpha=0.0, schedule=SCHEDULE, validation=iter(batches)
    )
    assert [epoch["loss"] for epoch in given.report["epochs"]] == [epoch["loss"] for epoch in listed.report["epochs"]]
    assert given.report["validation"]["agreement"] > 0

    class Endless:
        def __iter__(self) -> Iterator[torch.Tensor]:
            while True:
                yield torch.randn(4, 3)

    schedule = {**SCHEDULE, "steps_per_epoch": 2}
    for data in (Endless(), iter(Endless())):
        made = lit_core.compress(Mine(), data, blocks=[2], alpha=0.0, schedule=schedule, select="importance")
        assert len(made.report["epochs"]) == 5


def test_models_that_can_be_trained_on_single_samples_are() -> None:
    torch.manual_seed(0)
    made = lit_core.compress(Mine(), [torch.randn(4, 3), torch.randn(1, 3)], blocks=[2], alpha=0.0, schedule=SCHEDULE)
    assert made.report["student"]["blocks"] == [2]


def test_parametrised_layers_are_trained() -> None:
    torch.manual_seed(0)
    model = parametrised(weight_norm)
    made = lit_core.compress(model, [torch.randn(4, 3)], blocks=[2], alpha=0.0, schedule=SCHEDULE)
    assert made.student(torch.randn(5, 3)).shape == (5, 2)
    assert made.student.layers[0].first.parametrizations.weight is not None  # type: ignore[union-attr, index]


class TwoHeaded(Mine):
    """The mean of two heads, the second registered before the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.other = nn.Linear(6, 2), nn.Linear(6, 2)
        self._modules["layers"] = self._modules.pop("layers")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) + self.token
        for layer in self.layers:
            x = layer(x)
        logits: torch.Tensor = (self.head(x) + self.other(x)) / 2
        return logits


def test_filters_of_no_head_are_pruned() -> None:
    torch.manual_seed(0)
    made = lit_core.compress(
        TwoHeaded(),
        [torch.randn(8, 3)],
        blocks=[2],
        alpha=0.0,
        schedule=SCHEDULE,
        then=["prune:0.5"],
        pruning="filters",
    )
    state = made.pruned["prune:0.5"].state_dict()
    gone = {name for name, tensor in state.items() if tensor.ndim == 2 and not tensor.abs().sum(dim=1).all()}
    assert gone == {"embed.weight", *(f"layers.{n}.{layer}.weight" for n in (0, 1) for layer in ("first", "second"))}


class Remembering(Mine):
    """Holds on to what it put out, which can't be copied while it has a gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = super().forward(x)
        return self.seen


def test_fixed_weights_are_not_pruned_and_a_network_may_hold_what_it_put_out() -> None:
    torch.manual_seed(0)
    model: Any = Remembering()
    model.embed.weight.requires_grad_(False)
    made = lit_core.compress(model, [torch.randn(8, 3)], blocks=[2], alpha=0.0, schedule=SCHEDULE, then=["prune:0.5"])
    state = made.pruned["prune:0.5"].state_dict()
    assert torch.equal(state["embed.weight"], model.embed.weight)
    assert int((state["layers.0.first.weight"] == 0).sum()) > 0


def test_a_depth_is_shared_over_the_sections() -> None:
    made = lit_core.compress(
        Mine(), [torch.randn(4, 3)], depth=3, sections=[["layers.0", "layers.1"], ["layers.2", "layers.3"]], alpha=0.0
    )
    assert made.report["student"]["blocks"] == [2, 1]


def test_what_is_as_by_default_may_be_named() -> None:
    made = lit_core.compress(
        Mine(), [torch.randn(4, 3)], blocks=[2], alpha=0.0, schedule=SCHEDULE, n_random=0, accept=None
    )
    assert made.report["student"]["blocks"] == [2]


def test_a_ratio_counts_what_blocks_share_once() -> None:
    model: Any = Mine()
    for layer in model.layers:
        layer.second = model.layers[0].second
    with pytest.raises(ValueError, match="ratio: asks for parameters_ratio 2, but the smallest student reaches only"):
        lit_core.compress(model, [torch.randn(4, 3)], ratio=2.0, alpha=0.0, schedule=SCHEDULE)
    made = lit_core.compress(model, [torch.randn(4, 3)], ratio=1.3, alpha=0.0, schedule=SCHEDULE)
    assert made.report["ratios"]["parameters"] >= 1.3


def test_a_ratio_gives_the_blocks_that_the_service_would_train(tmp_path: Path) -> None:
    network = ResNet([4, 4, 4], 4, 1, 3, "A", "fc", "downsample")
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    found = inspect_teacher(read_teacher(tmp_path / "teacher.safetensors"))
    once = {"lit": {"epochs": 1}, "fine_tune": {"epochs": 0}}
    for ratio, blocks in ((1.25, [4, 4, 3]), (1.3, [4, 3, 3])):
        student = {"ratio": ratio, "select": "even"}
        request = {"teacher": "upl_t", "dataset": {"upload": "upl_d"}, "student": student}
        spec = resolve(JobRequest.model_validate(request), found)
        data = [torch.randn(4, 1, 8, 8)]
        made = lit_core.compress(network, data, ratio=ratio, select="even", alpha=0.0, schedule=once)
        assert made.report["student"]["blocks"] == spec.student.blocks == blocks
        assert made.report["ratios"]["parameters"] >= ratio


class Slow(Mine):
    """Its blocks take so long that nothing else counts."""

    def __init__(self) -> None:
        super().__init__()
        for layer in self.layers:
            # Within the time that is measured of a block, unlike a hook before it.
            layer.register_forward_hook(lambda *_: time.sleep(0.02))


def test_a_model_is_made_faster_by_what_its_blocks_take() -> None:
    made = lit_core.compress(
        Slow(), [torch.randn(4, 3)], target={"latency_ratio": 1.6, "batch": 2}, alpha=0.0, schedule=SCHEDULE
    )
    found = made.report["selection"]["target"]
    assert made.report["student"]["blocks"] == [2]
    assert (found["asked"], found["unit"]) == ({"latency_ratio": 1.6, "batch": 2}, "ms")
    assert found["teacher"] / found["expected"] >= 1.6


def test_an_accuracy_drop_is_measured_on_the_validation_data() -> None:
    data = [torch.randn(16, 3, generator=torch.Generator().manual_seed(0))]
    most = {"max_accuracy_drop": 100}
    made = lit_core.compress(Mine(), data, target=most, validation=data, alpha=0.0, schedule=SCHEDULE)
    assert made.report["student"]["blocks"] == [1]
    assert made.report["selection"]["target"]["expected"] == 100 - made.report["baselines"]["untrained"]["agreement"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": {"latency_ratio": 1.5}, "depth": 2}, r"give one of blocks .* and target"),
        ({"target": {"latency": 3}}, "target: latency: unknown field: did you mean latency_ms"),
        ({"target": {}}, "target: .*give exactly one of"),
        ({"target": {"max_accuracy_drop": 3}}, "measured on validation data: give validation"),
        ({"target": {"flops_ratio": 900}}, "target: asks for flops_ratio 900, but the smallest student reaches only"),
    ],
)
def test_a_target_that_means_nothing_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lit_core.compress(Mine(), [torch.randn(4, 3)], alpha=0.0, schedule=SCHEDULE, **arguments)


class Checkpointed(Mine):
    """Runs its blocks without keeping what is in them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) + self.token
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=self.training)
        logits: torch.Tensor = self.head(x)
        return logits


def test_representations_have_gradients_where_blocks_are_run_twice() -> None:
    x = torch.randn(5, 3)
    student = sectioned(Checkpointed(), x)
    student.train([])
    assert all(output.requires_grad for output in student.trace(x).outputs)


class OneOutput(Mine):
    """A binary classifier for a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 1)


def signs(batches: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Whether the sum of the features is positive."""
    return [(x, (x.sum(dim=1) > 0).long()) for x in torch.randn(batches, 32, 3)]


def trained_on_signs() -> nn.Module:
    network = OneOutput()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(40):
        for x, y in signs():
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(network(x)[:, 0], y.float()).backward()
            optimizer.step()
    return network.eval()


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_one_output_is_the_logit_of_a_binary_classifier(alpha: float) -> None:
    torch.manual_seed(0)
    teacher, validation = trained_on_signs(), signs()
    schedule = {"lit": {"epochs": 8, "learning_rate": 0.01}, "fine_tune": {"epochs": 1}, "optimizer": "adam"}
    made = lit_core.compress(
        teacher, signs(20), blocks=[1], select="first", alpha=alpha, schedule=schedule, validation=validation
    )
    x, y = (torch.cat(parts) for parts in zip(*validation, strict=True))
    with torch.no_grad():
        taught, own = ((network(x)[:, 0] > 0).long() for network in (teacher, made.student))
    found = made.report["validation"]
    assert found["teacher_accuracy"] == pytest.approx(100 * float((taught == y).double().mean()))
    assert found["student_accuracy"] == pytest.approx(100 * float((own == y).double().mean()))
    assert found["agreement"] == pytest.approx(100 * float((own == taught).double().mean()))
    assert found["student_accuracy"] > 85
    assert all(epoch["loss"] > 0 for epoch in made.report["epochs"])


def test_the_kd_loss_of_one_output_is_that_of_its_sigmoid() -> None:
    torch.manual_seed(0)
    own, taught, labels = torch.randn(7, 1), torch.randn(7, 1), torch.randint(0, 2, (7,))
    loss = kd_loss(class_logits(own), class_logits(taught), labels, alpha=0.3, tau=2.0)
    binary = nn.functional.binary_cross_entropy_with_logits
    hard, soft = binary(own[:, 0], labels.float()), binary(own / 2, (taught / 2).sigmoid())
    assert float(loss) == pytest.approx(float(0.3 * hard + 0.7 * 4 * soft))


@pytest.mark.parametrize("model", [Mine(), OneOutput()])
@pytest.mark.parametrize("wrong", [2, -2])
def test_labels_of_no_class_are_told_before_the_training(model: nn.Module, wrong: int) -> None:
    fine, bad = (torch.randn(4, 3), torch.ones(4).long()), (torch.randn(4, 3), torch.tensor([0, 1, -1, wrong]))
    reason = f"has the label {wrong}, but the model has 2 classes: give labels of 0 to 1"
    with pytest.raises(ValueError, match=f"data {reason}"):
        lit_core.compress(model, [fine, bad], blocks=[2])
    with pytest.raises(ValueError, match=f"validation {reason}"):
        lit_core.compress(model, [fine], blocks=[2], validation=[fine, bad])


def test_a_preset_sets_what_is_not_given() -> None:
    torch.manual_seed(0)
    data = [torch.randn(4, 3), torch.randn(3, 3)]
    asked = lit_core.compress(
        Mine(), data, blocks=[2], preset="few", schedule={"lit": {"epochs": 1}, "fine_tune": {"epochs": 2}}
    ).report["hyperparameters"]
    schedule = asked["schedule"]
    assert (asked["alpha"], asked["beta"], asked["feed"], schedule["steps_per_epoch"]) == (0, 0, "student", 20)
    assert (schedule["batch_norm"], schedule["lit"]["learning_rate"], asked["race"]) == ("frozen", 2e-4, True)
    assert (schedule["lit"]["epochs"], schedule["fine_tune"]["epochs"]) == (1, 2)
    assert schedule["optimizer"] == "adam"
    assert schedule["batch_size"] == 4
    quick = lit_core.compress(Mine(), data, blocks=[2], preset=Preset.QUICK, alpha=0.0).report["hyperparameters"]
    assert (quick["schedule"]["lit"]["epochs"], quick["schedule"]["fine_tune"]["epochs"]) == (5, 1)
    labelled = [(torch.randn(4, 3), torch.ones(4).long())]
    epochs = {"lit": {"epochs": 1}, "fine_tune": {"epochs": 1}}
    paper = lit_core.compress(Mine(), labelled, blocks=[2], preset="paper", schedule=epochs).report["hyperparameters"]
    assert (paper["alpha"], paper["beta"], paper["tau"], paper["feed"]) == (0.95, 0.75, 6.0, "teacher")
    with pytest.raises(ValueError, match="preset is 'fast': give one of paper, quick, few"):
        lit_core.compress(Mine(), data, blocks=[2], preset="fast")


def test_a_preset_of_steps_looks_at_all_of_the_data() -> None:
    with pytest.raises(ValueError, match="a batch of one sample"):
        lit_core.compress(Normalised(), [torch.randn(4, 3), torch.randn(1, 3)], blocks=[2], preset="few")


def test_a_presets_mixing_is_left_out_where_inputs_are_integers() -> None:
    class Looking(Mine):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.table(x))

    torch.manual_seed(0)
    data = [torch.randint(0, 10, (4,)) for _ in range(2)]
    short = {"lit": {"epochs": 1}}
    made = lit_core.compress(Looking(), data, blocks=[2], sections=["layers"], preset="few", schedule=short)
    assert made.report["hyperparameters"]["mixing"] == 0
    with pytest.raises(ValueError, match="mixing is for inputs of floats"):
        lit_core.compress(Looking(), data, blocks=[2], sections=["layers"], preset="few", mixing=0.5)


class Added(Mine):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().forward(x + y)


def test_batches_without_labels_may_be_tuples() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.randn(8, 3)
    plain = lit_core.compress(Mine(), [x], blocks=[2], alpha=0.0, schedule=SCHEDULE).report["epochs"]
    assert len(plain) == 5
    for data in ([(x,)], DataLoader(TensorDataset(x), batch_size=4)):
        made = lit_core.compress(Mine(), data, blocks=[2], alpha=0.0, schedule=SCHEDULE)
        assert made.report["student"]["blocks"] == [2]
    made = lit_core.compress(Added(), [((x, y),)], blocks=[2], alpha=0.0, schedule=SCHEDULE)
    assert made.report["student"]["blocks"] == [2]
    with pytest.raises(ValueError, match="the first batch has no labels"):
        lit_core.compress(Added(), [((x, y),)], blocks=[2])


def test_the_package_shows_what_it_has() -> None:
    assert {"Compressed", "Model", "compress", "load"} <= set(dir(lit_core))


class Reader(nn.Module):
    """A block that reads what the network has prepared for it, and what it has not outside the network."""

    def __init__(self, prepared: list[torch.Tensor]) -> None:
        super().__init__()
        self.prepared = prepared
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read: torch.Tensor = x + self.prepared[-1] * self.layers(x)
        return read


class Preparing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[torch.Tensor] = []
        self.embed, self.head = nn.Linear(64, 6), nn.Linear(6, 10)
        self.blocks = nn.Sequential(*(Reader(self.prepared) for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.prepared.append(torch.ones(()))
        logits: torch.Tensor = self.head(self.blocks(self.embed(x)))
        self.prepared.clear()
        return logits


def test_only_what_runs_sections_by_themselves_needs_sections_that_run_by_themselves() -> None:
    batches = [(torch.randn(8, 64), torch.arange(8) % 10) for _ in range(3)]
    for arguments in ({"method": "kd"}, {"method": "lit", "beta": 1.0}):
        student = lit_core.compress(Preparing(), batches, depth=2, schedule=SCHEDULE, **arguments).student
        assert torch.isfinite(student(torch.randn(2, 64))).all()
    with pytest.raises(NoSections, match=r"can't be run by themselves .* method kd"):
        lit_core.compress(Preparing(), batches, depth=2, schedule=SCHEDULE)


def test_a_number_is_no_batch() -> None:
    with pytest.raises(ValueError, match="a batch must be"):
        lit_core.compress(OnDigits(), [torch.tensor(1.0)], ratio=1.2, alpha=0.0)
