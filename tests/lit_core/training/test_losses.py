"""One step of LIT against the naive formulas: losses, gradients and BatchNorm buffers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_core.measuring.scores import divergence
from lit_core.networks.families import family_of
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import build_student
from lit_core.training.batch import Batch
from lit_core.training.losses import IR_LOSSES, kd_loss
from lit_core.training.objectives import (
    AttentionObjective,
    KdObjective,
    LabelObjective,
    LitObjective,
    Losses,
    OutputLoss,
    draw_feeds,
)
from lit_spec import Architecture, DatasetRequest, Feed, Init, IrLoss, JobSpec, Output, Part, StudentSpec, TeacherSpec
from tests.lit_core import naive
from tests.lit_core.training.taught_step import losses_of

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def architecture(shortcut: str = "A") -> Architecture:
    options = {"width": 4, "shortcut": shortcut, "head": "fc", "projection": "downsample"}
    return Architecture(family="resnet_cifar", depth=20, blocks=[3, 3, 3], channels=2, classes=5, options={**options})


def networks(
    dtype: torch.dtype, shortcut: str, frozen: list[Part], init: Init = Init.INHERIT
) -> tuple[SectionedNetwork, SectionedNetwork]:
    """A teacher with statistics and affine parameters away from their initial values, and its student."""
    arch = architecture(shortcut)
    family = family_of(arch)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    network = family.build(arch)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    network.to(dtype)
    teacher = SectionedNetwork(network, family.layout(arch))
    teacher.freeze()
    spec = JobSpec(
        teacher=TeacherSpec(upload="upl_t", architecture=arch),
        dataset=DatasetRequest(builtin="digits"),
        student=StudentSpec(depth=14, blocks=[2, 2, 2], init=init),
        seed=3,
    )
    student = build_student(teacher, spec)
    student.network.to(dtype)
    student.train(frozen)
    return teacher, student


def lit_objective(
    alpha: float, beta: float, tau: float, ir_loss: IrLoss, frozen: list[Part], **options: Any
) -> LitObjective:
    return LitObjective(
        output_loss=OutputLoss(alpha, tau),
        beta=beta,
        measure=IR_LOSSES[ir_loss],
        sections=3,
        frozen=frozen,
        **options,
    )


def as_naive(net: SectionedNetwork, blocks: list[int], shortcut: str, frozen_stem: bool, training: bool) -> naive.Net:
    tensors = {k: v.detach().clone() for k, v in net.network.state_dict().items()}
    if training:
        for name, _ in net.network.named_parameters():
            tensors[name].requires_grad_(True)
    return naive.Net(tensors, blocks, frozen_stem=frozen_stem, shortcut=shortcut, training=training)


def batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(6, 2, 8, 8, generator=generator, dtype=torch.float64).to(dtype), torch.arange(6) % 5


def assert_close(found: Tensor, wanted: Tensor, dtype: torch.dtype, what: str) -> None:
    error = float((found - wanted).detach().norm())
    assert error <= TOLERANCE[dtype] * float(wanted.detach().norm()) + 1e-30, f"{what}: off by {error}"


CASES = [
    (0.5, 0.5, 4.0, IrLoss.MSE),
    (0.95, 0.75, 6.0, IrLoss.MSE),
    (0.5, 0.0, 4.0, IrLoss.MSE),
    (0.5, 1.0, 4.0, IrLoss.MSE),
    (0.0, 0.5, 4.0, IrLoss.MSE),
    (1.0, 0.5, 4.0, IrLoss.MSE),
    (0.3, 0.4, 1.0, IrLoss.MSE),
    (0.3, 0.4, 20.0, IrLoss.MSE),
    (0.3, 0.4, 0.5, IrLoss.L1),
    (0.3, 0.4, 2.0, IrLoss.SMOOTH_L1),
    (0.3, 0.4, 2.0, IrLoss.COSINE),
]


DTYPES = [
    pytest.param(torch.float64, id="float64"),
    pytest.param(torch.float32, marks=pytest.mark.long, id="float32"),
]
"""Of the largest tables. The other tests have both in their short forms."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("frozen", [[Part.STEM, Part.HEAD], []], ids=["frozen", "free"])
@pytest.mark.parametrize(("alpha", "beta", "tau", "ir_loss"), CASES)
def test_a_lit_step_equals_the_naive_formulas(
    alpha: float, beta: float, tau: float, ir_loss: IrLoss, frozen: list[Part], shortcut: str, dtype: torch.dtype
) -> None:
    teacher, student = networks(dtype, shortcut, frozen)
    reference_teacher = as_naive(teacher, [3, 3, 3], shortcut, True, training=False)
    reference = as_naive(student, [2, 2, 2], shortcut, Part.STEM in frozen, training=True)
    x, y = batch(dtype)

    losses = losses_of(lit_objective(alpha, beta, tau, ir_loss, frozen), teacher, student, Batch((x,), y))
    losses.total.backward()
    total, kd, ir = naive.lit(
        reference_teacher, reference, x, y, alpha=alpha, beta=beta, tau=tau, ir_loss=ir_loss.value
    )
    total.backward()

    assert_same_step(losses, total, kd, ir, beta, student, reference, dtype)


def assert_same_step(
    losses: Losses,
    total: Tensor,
    kd: Tensor | None,
    ir: list[Tensor],
    beta: float,
    student: SectionedNetwork,
    reference: naive.Net,
    dtype: torch.dtype,
) -> None:
    """Losses, gradients and buffers."""
    assert_close(losses.total, total, dtype, "total")
    assert ("kd_loss" not in losses.parts) == (kd is None) == (beta == 0)
    if kd is not None:
        assert_close(losses.parts["kd_loss"], kd, dtype, "kd")
    found_ir = [value for name, value in losses.parts.items() if name.startswith("ir_loss_")]
    assert len(found_ir) == len(ir) == (0 if beta == 1 else 3)
    for n, (found, wanted) in enumerate(zip(found_ir, ir, strict=True)):
        assert_close(found, wanted, dtype, f"ir {n}")
    compared = 0
    for name, parameter in student.network.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None
            assert name.startswith(("conv1.", "bn1.", "fc."))
            continue
        wanted_grad = reference.tensors[name].grad
        assert (parameter.grad is None) == (wanted_grad is None), name
        if wanted_grad is not None:
            assert_close(parameter.grad, wanted_grad, dtype, name)
            compared += 1
    assert compared >= 24
    for name, buffer in student.network.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == reference.counts.get(name.removesuffix(".num_batches_tracked"), 0), name
        else:
            assert_close(buffer, reference.tensors[name], dtype, name)


FEEDS = [(a, b, c) for a in (True, False) for b in (True, False) for c in (True, False)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("frozen", [[Part.STEM, Part.HEAD], []], ids=["frozen", "free"])
@pytest.mark.parametrize("beta", [0.0, 0.4])
@pytest.mark.parametrize("feeds", FEEDS)
def test_every_way_of_feeding_equals_the_naive_formulas(
    feeds: tuple[bool, bool, bool], beta: float, frozen: list[Part], dtype: torch.dtype
) -> None:
    teacher, student = networks(dtype, "B", frozen)
    reference_teacher = as_naive(teacher, [3, 3, 3], "B", True, training=False)
    reference = as_naive(student, [2, 2, 2], "B", Part.STEM in frozen, training=True)
    x, y = batch(dtype)
    if len(set(feeds)) == 1:
        options: dict[str, Any] = {"feed": Feed.TEACHER if feeds[0] else Feed.STUDENT}
        made = Batch((x,), y)
    else:
        options = {"feed": Feed.SCHEDULED, "feed_until": 1.0}
        made = Batch((x,), y, 0.5, generator_that_draws(feeds))
    losses = losses_of(lit_objective(0.3, beta, 4.0, IrLoss.MSE, frozen, **options), teacher, student, made)
    losses.total.backward()
    total, kd, ir = naive.lit(
        reference_teacher, reference, x, y, alpha=0.3, beta=beta, tau=4.0, ir_loss="mse", feeds=feeds
    )
    total.backward()
    assert_same_step(losses, total, kd, ir, beta, student, reference, dtype)


def generator_that_draws(feeds: tuple[bool, bool, bool]) -> torch.Generator:
    """A generator whose next draw at half of the schedule gives these feeds."""
    for seed in range(1000):
        if draw_feeds(Feed.SCHEDULED, 3, 0.5, 1.0, torch.Generator().manual_seed(seed)) == list(feeds):
            return torch.Generator().manual_seed(seed)
    raise AssertionError(feeds)


def test_scheduled_feeding_goes_from_the_teacher_to_the_student() -> None:
    generator = torch.Generator().manual_seed(0)

    def share(position: float) -> float:
        drawn = [draw_feeds(Feed.SCHEDULED, 3, position, 0.8, generator) for _ in range(2000)]
        return sum(map(sum, drawn)) / 6000

    assert share(0.0) == 1
    assert share(0.4) == pytest.approx(0.5, abs=0.03)
    assert share(0.6) == pytest.approx(0.25, abs=0.03)
    assert share(0.8) == share(0.95) == 0


def test_noise_is_added_to_the_teachers_representations_alone() -> None:
    frozen = [Part.STEM, Part.HEAD]
    teacher, student = networks(torch.float64, "A", frozen)
    student.network.eval()
    x, y = batch(torch.float64)
    made = Batch((x,), y, generator=torch.Generator().manual_seed(5))
    noisy = losses_of(lit_objective(0.5, 0.0, 4.0, IrLoss.MSE, frozen, noise=0.1), teacher, student, made)
    generator = torch.Generator().manual_seed(5)
    taught = teacher.trace(x)
    for n, section in enumerate(student.sections):
        given = taught.inputs[n] + 0.1 * torch.randn(taught.inputs[n].shape, generator=generator)
        wanted = naive.distance("mse", section(given), taught.outputs[n])
        assert_close(noisy.parts[f"ir_loss_{n + 1}"], wanted, torch.float64, f"section {n}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_attention_transfer_equals_the_naive_formulas(alpha: float, dtype: torch.dtype) -> None:
    teacher, student = networks(dtype, "B", [])
    reference_teacher = as_naive(teacher, [3, 3, 3], "B", True, training=False)
    reference = as_naive(student, [2, 2, 2], "B", False, training=True)
    x, y = batch(dtype)
    losses = losses_of(AttentionObjective(OutputLoss(alpha, 4.0), 1000.0), teacher, student, Batch((x,), y))
    losses.total.backward()
    wanted = naive.at(reference_teacher, reference, x, y, alpha=alpha, tau=4.0, weight=1000.0)
    wanted.backward()
    assert_close(losses.total, wanted, dtype, "total")
    assert_same_gradients_and_buffers(student, reference, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_training_from_scratch_equals_the_naive_formulas(dtype: torch.dtype) -> None:
    teacher, student = networks(dtype, "A", [])
    reference = as_naive(student, [2, 2, 2], "A", False, training=True)
    x, y = batch(dtype)
    losses = losses_of(LabelObjective(), teacher, student, Batch((x,), y))
    losses.total.backward()
    z = naive.logits(reference, x)
    wanted = naive.kd(z, z.detach(), y, 1.0, 1.0)
    wanted.backward()
    assert_close(losses.total, wanted, dtype, "total")
    assert_same_gradients_and_buffers(student, reference, dtype)


def assert_same_gradients_and_buffers(student: SectionedNetwork, reference: naive.Net, dtype: torch.dtype) -> None:
    for name, parameter in student.network.named_parameters():
        assert parameter.grad is not None
        assert_close(parameter.grad, reference.tensors[name].grad, dtype, name)
    for name, buffer in student.network.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert_close(buffer, reference.tensors[name], dtype, name)


def test_samples_without_a_label_are_taught_by_the_teacher_alone() -> None:
    z_s, z_t = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    y = torch.tensor([0, -1, 2, -1])
    labelled = y >= 0
    hard = naive.cross_entropy(torch.eye(3, dtype=torch.float64)[y[labelled]], z_s[labelled]) * 2 / 4
    soft = naive.kd(z_s, z_t, y.clamp(min=0), 0.0, 3.0)
    assert torch.allclose(kd_loss(z_s, z_t, y, 0.3, 3.0), 0.3 * hard + 0.7 * soft)


def test_the_teacher_and_frozen_parts_change_nothing() -> None:
    frozen = [Part.STEM, Part.HEAD]
    teacher, student = networks(torch.float64, "B", frozen)
    before = {k: v.clone() for k, v in teacher.network.state_dict().items()}
    x, y = batch(torch.float64)
    losses_of(lit_objective(0.5, 0.5, 4.0, IrLoss.MSE, frozen), teacher, student, Batch((x,), y)).total.backward()
    for name, tensor in teacher.network.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name in ("bn1.running_mean", "bn1.running_var", "conv1.weight", "fc.weight"):
        assert torch.equal(student.network.state_dict()[name], before[name])
    assert all(p.grad is None for p in teacher.network.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("alpha", "tau"), [(0.0, 4.0), (0.5, 1.0), (1.0, 6.0)])
def test_a_fine_tuning_step_equals_the_naive_formulas(alpha: float, tau: float, dtype: torch.dtype) -> None:
    teacher, student = networks(dtype, "A", [])
    reference_teacher = as_naive(teacher, [3, 3, 3], "A", True, training=False)
    reference = as_naive(student, [2, 2, 2], "A", False, training=True)
    x, y = batch(dtype)
    losses = losses_of(KdObjective(OutputLoss(alpha, tau)), teacher, student, Batch((x,), y))
    losses.total.backward()
    wanted = naive.kd(naive.logits(reference, x), naive.logits(reference_teacher, x, False).detach(), y, alpha, tau)
    wanted.backward()
    assert list(losses.parts) == ["kd_loss"]
    assert_close(losses.total, wanted, dtype, "total")
    assert_same_gradients_and_buffers(student, reference, dtype)


def test_kd_at_alpha_one_is_cross_entropy_and_at_zero_ignores_labels() -> None:
    z_s, z_t = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    y, other = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 1])
    assert torch.allclose(kd_loss(z_s, z_t, y, 1.0, 9.0), torch.nn.functional.cross_entropy(z_s, y))
    assert torch.equal(kd_loss(z_s, z_t, y, 0.0, 4.0), kd_loss(z_s, z_t, other, 0.0, 4.0))


def test_classes_that_a_network_rules_out_add_nothing() -> None:
    """With logits of -inf, where a probability of 0 is multiplied by its logarithm."""
    generator = torch.Generator().manual_seed(0)
    mine, taught = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    ruled_out = F.pad(mine, (0, 1), value=-math.inf).requires_grad_(True)
    labels = torch.zeros(5, dtype=torch.long)
    loss = kd_loss(ruled_out, F.pad(taught, (0, 1), value=-math.inf), labels, alpha=0.3, tau=2.0)
    torch.testing.assert_close(loss, kd_loss(mine, taught, labels, alpha=0.3, tau=2.0))
    loss.backward()
    assert ruled_out.grad is not None
    assert bool(ruled_out.grad.isfinite().all())
    found = divergence(ruled_out.detach(), F.pad(taught, (0, 1), value=-math.inf), Output.LOGITS)
    torch.testing.assert_close(found, divergence(mine, taught, Output.LOGITS))
    assert divergence(ruled_out.detach(), F.pad(taught, (0, 1), value=0.0), Output.LOGITS) > 1e6
