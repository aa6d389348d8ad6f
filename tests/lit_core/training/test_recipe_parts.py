"""The parts of the recipe for pretrained networks: relative losses, what is frozen or switched off, and mixing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_core.data.labels import NO_LABEL
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.batch import Batch
from lit_core.training.losses import IR_LOSSES, embedding_loss, feature_loss, relative_to_mean
from lit_core.training.mixing import MOST, mixed
from lit_core.training.objectives import FeatureObjective, LitObjective, Objective, objective_of
from lit_core.training.taught import LiveTeacher
from lit_core.training.updaters import DistillationUpdater, distillation_updater
from lit_spec import BatchNorm, Feed, Hyperparameters, IrLoss, Method, Output, Part, Phase, Schedule, SpecError
from tests.lit_core.networks.test_discovery import Mine, sectioned
from tests.lit_core.training.taught_step import losses_of
from tests.lit_core.training.test_losses import batch, networks

# --- losses ---


def squares(student: Tensor, teacher: Tensor) -> float:
    """Sum over samples and entries, with plain loops."""
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    return sum((own - wanted) ** 2 for own, wanted in pairs)


def representations(samples: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    wanted = 3 + torch.randn(samples, 4, 2, 2, generator=generator, dtype=torch.float64)
    return wanted + 0.3 * torch.randn(wanted.shape, generator=generator, dtype=torch.float64), wanted


def test_the_relative_loss_is_that_of_the_mean_for_a_constant_student() -> None:
    own, wanted = representations()
    total = torch.zeros(4, 2, 2, dtype=torch.float64)
    for sample in wanted:
        total += sample
    mean = torch.stack([total / 5] * 5)
    expected = squares(own, wanted) / squares(mean, wanted)
    assert float(feature_loss(own, wanted)) == pytest.approx(expected, rel=1e-10)
    assert float(feature_loss(mean, wanted)) == pytest.approx(1)
    for ir_loss, measure in IR_LOSSES.items():
        relative = relative_to_mean(measure, own, wanted)
        assert float(relative) == pytest.approx(float(measure(own, wanted) / measure(mean, wanted))), ir_loss
        scaled = relative_to_mean(measure, 100 * own, 100 * wanted)
        if ir_loss != IrLoss.SMOOTH_L1:
            torch.testing.assert_close(scaled, relative)


@pytest.mark.parametrize("samples", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ir_loss", IrLoss)
def test_a_batch_without_spread_has_a_loss_of_the_same_size(ir_loss: IrLoss, dtype: torch.dtype, samples: int) -> None:
    """A single sample, or several that are all alike."""
    own, wanted = (x.to(dtype).repeat(samples, 1, 1, 1) for x in representations(1))
    measure = IR_LOSSES[ir_loss]
    expected = float(measure(own, wanted) / measure(torch.zeros_like(wanted), wanted))
    assert float(relative_to_mean(measure, own, wanted)) == pytest.approx(expected)
    assert expected < 1
    nothing = torch.zeros_like(wanted)
    assert float(relative_to_mean(measure, nothing, nothing)) == (1 if ir_loss == IrLoss.COSINE else 0)


def test_the_relative_loss_of_bfloat16_representations_is_that_of_their_values() -> None:
    """The mean of values around 1,000 can't be told from their spread in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    wanted = (1000 + 8 * torch.randint(-1, 2, (64, 3), generator=generator)).bfloat16()
    own = wanted + 8 * torch.randint(0, 2, (64, 3), generator=generator)
    exact = feature_loss(own.double(), wanted.double())
    assert float(feature_loss(own, wanted)) == pytest.approx(float(exact), rel=1e-3)


def test_the_embedding_loss_is_one_minus_the_cosine() -> None:
    own, wanted = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    assert float(embedding_loss(own, wanted)) == pytest.approx((1 + 0) / 2)


def features_of(network: SectionedNetwork, x: Tensor) -> Tensor:
    """Of a CIFAR ResNet, by its own modules."""
    net: Any = network.network
    x = net.conv1(x)
    x = torch.relu(net.bn1(x))
    x = net.layer3(net.layer2(net.layer1(x)))
    return x.mean(dim=(2, 3))


def test_an_objective_adds_the_feature_loss_with_its_weight() -> None:
    x, labels = batch(torch.float64)
    for beta in (0.0, 0.4):
        teacher, student = networks(torch.float64, "A", [Part.STEM])
        student.network.eval()
        spec = Hyperparameters(
            beta=beta,
            feature_weight=2.5,
            ir_relative=True,
            feed=Feed.STUDENT,
            schedule=Schedule(lit={"frozen": ["stem"]}),
        )
        found = losses_of(objective_of(spec, Phase.LIT, 3), teacher, student, Batch((x,), labels))
        wanted, own = features_of(teacher, x), features_of(student, x)
        feature = squares(own, wanted) / squares(wanted.mean(dim=0).expand_as(wanted), wanted)
        assert float(found.parts["feature_loss"]) == pytest.approx(feature)
        taught, made = teacher.trace(x), student.trace(x)
        ir = [
            squares(o, w) / squares(w.mean(dim=0).expand_as(w), w)
            for o, w in zip(made.outputs, taught.outputs, strict=True)
        ]
        assert [float(found.parts[f"ir_loss_{n}"]) for n in (1, 2, 3)] == pytest.approx(ir)
        kd = beta * float(found.parts["kd_loss"]) if beta else 0.0
        assert float(found.total) == pytest.approx((1 - beta) * sum(ir) + kd + 2.5 * feature)


def test_mimicking_has_the_feature_loss_alone_and_kd_may_stand_beside_it() -> None:
    x, labels = batch(torch.float64)
    teacher, student = networks(torch.float64, "A", [])
    student.network.eval()
    feature = float(feature_loss(features_of(student, x), features_of(teacher, x)))
    mimic = objective_of(Hyperparameters(method=Method.MIMIC), Phase.FINE_TUNE, 3)
    found = losses_of(mimic, teacher, student, Batch((x,), labels))
    assert (list(found.parts), float(found.total)) == (["feature_loss"], pytest.approx(feature))
    for method in (Method.LIT, Method.BORN_AGAIN_LIT):
        both = objective_of(Hyperparameters(method=method, feature_weight=3.0), Phase.FINE_TUNE, 3)
        found = losses_of(both, teacher, student, Batch((x,), labels))
        assert float(found.total) == pytest.approx(3 * feature + float(found.parts["kd_loss"]))


def test_a_loss_that_nothing_trained_changes_is_told() -> None:
    """The features don't depend on the head."""
    fixed = Mine().requires_grad_(False)
    fixed.head.requires_grad_(True)
    x = torch.randn(4, 3)
    network = sectioned(fixed, x, ["layers"])
    student = SectionedNetwork(network.copy_of_network(), network.layout)
    updater = distillation_updater(Hyperparameters(method=Method.MIMIC), Phase.LIT, network, student, {})
    with pytest.raises(SpecError, match="no trained parameter") as failure:
        updater.step(Batch((x,), torch.zeros(4).long()), 0.1)
    assert failure.value.field == "method"


# --- what is frozen or switched off ---


def objective(feature_weight: float) -> Objective:
    if feature_weight == 0:
        return FeatureObjective(feature_loss=objective_features())
    spec = Hyperparameters(beta=0.0, feature_weight=feature_weight, ir_relative=True)
    made = objective_of(spec, Phase.LIT, 3)
    assert isinstance(made, LitObjective)
    return made


def objective_features() -> Any:
    made = objective_of(Hyperparameters(method=Method.MIMIC), Phase.LIT, 3)
    assert isinstance(made, FeatureObjective)
    return made.feature_loss


def updater(schedule: Schedule, feature_weight: float = 1.0) -> tuple[DistillationUpdater, SectionedNetwork]:
    teacher, student = networks(torch.float32, "A", [])
    made = partial(DistillationUpdater, frozen=[], masks={}, precision=Hyperparameters().precision)
    wanted = objective(feature_weight)
    return made(wanted, LiveTeacher(teacher, wanted.needs), student, schedule), student


@pytest.mark.parametrize("feature_weight", [0.0, 1.0], ids=["mimic", "lit"])
def test_frozen_batch_norm_keeps_its_statistics_and_trains_scale_and_shift(feature_weight: float) -> None:
    x, labels = batch(torch.float32)
    for kind in BatchNorm:
        one, student = updater(Schedule(batch_norm=kind), feature_weight)
        before = {name: tensor.clone() for name, tensor in student.network.state_dict().items()}
        for _ in range(3):
            one.begin_epoch()
            one.step(Batch((x,), labels), 0.05)
        after = student.network.state_dict()
        statistics = [name for name in after if "running" in name or "num_batches" in name]
        assert len(statistics) > 10
        kept = [torch.equal(after[name], before[name]) for name in statistics]
        assert all(kept) if kind == BatchNorm.FROZEN else not any(kept)
        norms = [
            f"{name}.{what}"
            for name, module in student.network.named_modules()
            for what in ("weight", "bias")
            if isinstance(module, nn.BatchNorm2d)
        ]
        assert all(not torch.equal(after[name], before[name]) for name in norms)


def test_frozen_batch_norm_normalises_by_its_statistics_on_both_paths() -> None:
    """A sample's representation does not depend on the others of its batch."""
    x, _ = batch(torch.float32)
    one, student = updater(Schedule(batch_norm=BatchNorm.FROZEN))
    one.begin_epoch()
    whole = student.trace(x)
    torch.testing.assert_close(student.trace(x[:1]).output, whole.output[:1], atol=1e-5, rtol=1e-5)
    assert any(module.training for module in student.network.modules() if not isinstance(module, nn.BatchNorm2d))


class Dropping(Mine):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(self.dropout(x)), 0.5, self.training)


def test_dropout_is_off_where_that_is_asked() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    network = sectioned(Dropping(), x, ["layers"])
    student = SectionedNetwork(network.copy_of_network(), network.layout)
    student.train([], dropout=True)
    assert not torch.equal(student.run(x), student.run(x))
    student.train([], dropout=False)
    assert torch.equal(student.run(x), student.run(x))
    assert all(parameter.requires_grad for parameter in student.network.parameters())


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_the_norm_of_a_steps_gradients_is_bounded(clip: float) -> None:
    """With SGD without momentum the step is the gradient."""
    x, labels = batch(torch.float32)
    plain = {"nesterov": False, "momentum": 0.0, "weight_decay": 0.0}
    steps = []
    for schedule in (Schedule(**plain), Schedule(**plain, gradient_clip=clip)):
        one, student = updater(schedule)
        before = [parameter.detach().clone() for parameter in student.network.parameters()]
        one.step(Batch((x,), labels), 1.0)
        after = student.network.parameters()
        steps.append(torch.cat([(now - was).flatten() for now, was in zip(after, before, strict=True)]).detach())
    free, clipped = steps
    assert float(free.norm()) > 0.1
    if clip == 0.01:
        assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-3)
        torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), atol=1e-4, rtol=1e-3)
    else:
        assert torch.equal(clipped, free)


# --- mixing ---


def test_a_share_of_the_samples_is_mixed_and_loses_its_label() -> None:
    x = torch.eye(8)
    labels = torch.arange(8)
    for share, number in ((0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)):
        made = mixed(Batch((x, 2 * x), labels, generator=torch.Generator().manual_seed(3)), share)
        changed = (made.labels == NO_LABEL).nonzero().flatten().tolist()
        assert len(changed) == number
        assert torch.equal(labels, torch.arange(8)), "the data itself stays"
        for place in range(8):
            if place not in changed:
                assert torch.equal(made.inputs[0][place], x[place])
                assert made.labels[place] == place
                continue
            weights = made.inputs[0][place]
            assert float(weights.sum()) == pytest.approx(1)
            assert weights[place] >= 1 - MOST
            assert int((weights > 0).sum()) == 2, "of the sample itself and one other"
            # All inputs of a sample are mixed alike.
            torch.testing.assert_close(made.inputs[1][place], 2 * weights)


def test_mixing_is_a_function_of_the_generator_and_not_always_of_the_same_places() -> None:
    x, labels = torch.eye(8), torch.arange(8)

    def places(seed: int) -> tuple[list[int], Tensor]:
        made = mixed(Batch((x,), labels, generator=torch.Generator().manual_seed(seed)), 0.5)
        return (made.labels == NO_LABEL).nonzero().flatten().tolist(), made.inputs[0]

    assert torch.equal(places(1)[1], places(1)[1])
    assert len({place for seed in range(20) for place in places(seed)[0]}) == 8


def test_without_mixing_nothing_is_drawn_and_a_single_sample_stays() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    given = Batch((torch.eye(8),), torch.arange(8), generator=generator)
    assert mixed(given, 0.0) is given
    assert torch.equal(generator.get_state(), before)
    alone = Batch((torch.eye(8)[:1],), torch.tensor([3]))
    assert mixed(alone, 1.0) is alone


def test_embeddings_have_the_cosine_for_kd_and_for_features() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3)
    teacher = sectioned(Mine(), x, ["layers"])
    student = sectioned(Mine(), x, ["layers"])
    given = Batch((x,), torch.full((5,), NO_LABEL))
    pairs = list(zip(student.run(x), teacher.run(x), strict=True))
    wanted = 1 - sum(float(torch.dot(own, taught) / (own.norm() * taught.norm())) for own, taught in pairs) / 5
    for method in (Method.KD, Method.MIMIC):
        spec = Hyperparameters(method=method, output=Output.EMBEDDING)
        found = losses_of(objective_of(spec, Phase.LIT, 1), teacher, student, given)
        assert float(found.total) == pytest.approx(wanted, abs=1e-6)
