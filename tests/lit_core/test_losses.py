"""One step of LIT against the naive formulas: losses, gradients and BatchNorm buffers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_core.families import family_of
from lit_core.losses import FineTuneLoss, LitLoss, kd_loss
from lit_core.sections import SectionedNetwork
from lit_core.spec import Architecture, Init, IrLoss, Part, StudentSpec
from lit_core.student import build_student
from tests.lit_core import naive

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
    spec = StudentSpec(depth=14, blocks=[2, 2, 2], init=init)
    student = SectionedNetwork(build_student(teacher, arch, spec, seed=3).to(dtype), teacher.layout)
    student.train(frozen)
    return teacher, student


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
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

    losses = LitLoss(alpha, beta, tau, ir_loss, frozen)(teacher, student, x, y)
    losses.total.backward()
    total, kd, ir = naive.lit(
        reference_teacher, reference, x, y, alpha=alpha, beta=beta, tau=tau, ir_loss=ir_loss.value
    )
    total.backward()

    assert_close(losses.total, total, dtype, "total")
    assert (losses.kd is None) == (kd is None) == (beta == 0)
    if losses.kd is not None:
        assert_close(losses.kd, kd, dtype, "kd")
    assert len(losses.ir) == len(ir) == (0 if beta == 1 else 3)
    for n, (found, wanted) in enumerate(zip(losses.ir, ir, strict=True)):
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


def test_the_teacher_and_frozen_parts_change_nothing() -> None:
    frozen = [Part.STEM, Part.HEAD]
    teacher, student = networks(torch.float64, "B", frozen)
    before = {k: v.clone() for k, v in teacher.network.state_dict().items()}
    x, y = batch(torch.float64)
    LitLoss(0.5, 0.5, 4.0, IrLoss.MSE, frozen)(teacher, student, x, y).total.backward()
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
    losses = FineTuneLoss(alpha, tau)(teacher, student, x, y)
    losses.total.backward()
    wanted = naive.kd(naive.logits(reference, x), naive.logits(reference_teacher, x, False).detach(), y, alpha, tau)
    wanted.backward()
    assert losses.ir == []
    assert_close(losses.total, wanted, dtype, "total")
    for name, parameter in student.network.named_parameters():
        assert parameter.grad is not None
        assert_close(parameter.grad, reference.tensors[name].grad, dtype, name)
    for name, buffer in student.network.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert_close(buffer, reference.tensors[name], dtype, name)


def test_kd_at_alpha_one_is_cross_entropy_and_at_zero_ignores_labels() -> None:
    z_s, z_t = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    y, other = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 1])
    assert torch.allclose(kd_loss(z_s, z_t, y, 1.0, 9.0), torch.nn.functional.cross_entropy(z_s, y))
    assert torch.equal(kd_loss(z_s, z_t, y, 0.0, 4.0), kd_loss(z_s, z_t, other, 0.0, 4.0))
