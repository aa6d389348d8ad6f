"""A step of each method with ResNeXts and VDCNNs against the naive formulas: losses, gradients and buffers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_core.networks.families import family_of
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import build_student
from lit_core.training.batch import Batch
from lit_core.training.objectives import (
    AttentionObjective,
    KdObjective,
    LabelObjective,
    LitObjective,
    OutputLoss,
)
from lit_spec import Architecture, DatasetRequest, Feed, JobSpec, Modality, Part, StudentSpec, TeacherSpec
from tests.lit_core import naive, naive_resnext, naive_vdcnn
from tests.lit_core.training.taught_step import losses_of

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
FROZEN = [Part.STEM, Part.HEAD]
CLASSES = 5


@dataclass(frozen=True)
class Case:
    architecture: Architecture
    student: list[int]
    depth: int
    parts: naive.Parts
    inputs: Tensor


def resnext(names: str, stem_width: int) -> Case:
    """Two sections' first blocks project; with a stem as wide as the first section, that one's doesn't."""
    head, projection = {"layer": ("fc", "downsample"), "stage": ("classifier", "shortcut")}[names]
    options = {"cardinality": 3, "base_width": 2, "width": 8, "stem_width": stem_width}
    options |= {"names": names, "head": head, "projection": projection}
    architecture = Architecture(
        family="resnext_cifar", depth=20, blocks=[2, 2, 2], channels=2, classes=CLASSES, options=options
    )
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(6, 2, 8, 8, generator=generator, dtype=torch.float64)
    return Case(architecture, [1, 2, 1], 14, naive_resnext.PARTS, x)


def vdcnn(downsampling: str, shortcut: bool, bias: bool = False) -> Case:
    options = {"vocabulary_size": 60, "embedding_size": 3, "k": 2, "hidden_1": 6, "hidden_2": 7}
    options |= {"stem_width": 3, "width_1": 3, "width_2": 4, "width_3": 4, "width_4": 6}
    options |= {"downsampling": downsampling, "shortcut": shortcut, "bias": bias, "least_length": 8}
    architecture = Architecture(
        family="vdcnn",
        modality=Modality.TEXT,
        depth=17,
        blocks=[2, 2, 2, 2],
        channels=None,
        classes=CLASSES,
        options=options,
    )
    generator = torch.Generator().manual_seed(9)
    # No character twice in a text, so that no two places have the same value.
    x = torch.stack([torch.randperm(60, generator=generator)[:22] for _ in range(5)])
    return Case(architecture, [1, 2, 1, 1], 11, naive_vdcnn.PARTS, x)


CASES = {
    "resnext-layer": resnext("layer", 4),
    "resnext-stage": resnext("stage", 8),
    **{
        f"vdcnn-{way}{'-shortcut' * shortcut}": vdcnn(way, shortcut)
        for way in ("conv", "maxpool", "kmaxpool")
        for shortcut in (False, True)
    },
    "vdcnn-bias": vdcnn("conv", True, bias=True),
}


@dataclass(frozen=True)
class Step:
    """The same networks and data for the real formulas and the naive ones."""

    case: Case
    teacher: SectionedNetwork
    student: SectionedNetwork
    naive_teacher: naive.Net
    naive_student: naive.Net
    x: Tensor
    y: Tensor

    @property
    def batch(self) -> Batch:
        return Batch((self.x,), self.y)


def prepare(case: Case, dtype: torch.dtype, frozen: list[Part]) -> Step:
    """A teacher with statistics and affine parameters away from their initial values, and its student."""
    family = family_of(case.architecture)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    network = family.build(case.architecture)
    for name, parameter in network.named_parameters():
        # What sections put out is mostly above zero: several zeros would be ties for the k largest.
        if name.endswith("bias"):
            raised = 2.5 if name.endswith("bn2.bias") else 0.0
            parameter.data = raised + 0.3 * torch.randn(parameter.shape, generator=generator)
        elif parameter.ndim == 1:
            parameter.data = 0.5 + torch.rand(parameter.shape, generator=generator)
        elif "_shortcut" in name:
            parameter.data = parameter.data.abs()
    for _ in range(20):
        network(case.inputs if case.inputs.dtype == torch.int64 else case.inputs.float())
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()
    network.to(dtype)
    teacher = SectionedNetwork(network, family.layout(case.architecture))
    teacher.freeze()
    spec = JobSpec(
        teacher=TeacherSpec(upload="upl_t", architecture=case.architecture),
        dataset=DatasetRequest(builtin="digits"),
        student=StudentSpec(depth=case.depth, blocks=case.student, init="inherit"),
        seed=3,
    )
    student = build_student(teacher, spec)
    student.network.to(dtype)
    student.train(frozen)
    x = case.inputs if case.architecture.modality == Modality.TEXT else case.inputs.to(dtype)
    return Step(
        case,
        teacher,
        student,
        as_naive(teacher, case.architecture, case.architecture.blocks, frozen=True),
        as_naive(student, case.architecture, case.student, frozen=Part.STEM in frozen),
        x,
        torch.arange(len(x)) % CLASSES,
    )


def as_naive(net: SectionedNetwork, architecture: Architecture, blocks: list[int], frozen: bool) -> naive.Net:
    training = net.sections[0][0].training
    tensors = {k: v.detach().clone() for k, v in net.network.state_dict().items()}
    for name, parameter in net.network.named_parameters():
        tensors[name].requires_grad_(training and parameter.requires_grad)
    return naive.Net(tensors, blocks, frozen_stem=frozen, training=training, options=dict(architecture.options))


def assert_close(found: Tensor, wanted: Tensor, what: str, size: float = 0.0) -> None:
    error, size = float((found - wanted).detach().norm()), max(size, float(wanted.detach().norm()))
    assert error <= TOLERANCE[found.dtype] * size, f"{what}: off by {error} of {size}"


def assert_same_state(step: Step, least: int) -> None:
    """Gradients of all that is trained, and buffers."""
    compared = 0
    for name, parameter in step.student.network.named_parameters():
        wanted = step.naive_student.tensors[name].grad
        assert (parameter.grad is None) == (wanted is None), name
        if wanted is not None:
            assert_close(parameter.grad, wanted, name, least_size(step, name))
            compared += 1
    assert compared >= least
    for name, buffer in step.student.network.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == step.naive_student.counts.get(name.removesuffix(".num_batches_tracked"), 0), name
        else:
            assert_close(buffer, step.naive_student.tensors[name], name)


def least_size(step: Step, name: str) -> float:
    """Of a gradient. A convolution's bias before a BatchNorm has none but rounding: its weight's says how much."""
    if "conv" not in name or not name.endswith(".bias"):
        return 0.0
    return float(step.naive_student.tensors[name.replace(".bias", ".weight")].grad.norm())


by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
by_dtype = pytest.mark.parametrize(
    "dtype",
    [pytest.param(torch.float64, id="float64"), pytest.param(torch.float32, marks=pytest.mark.long, id="float32")],
)
"""test_losses.py has float32 in its short form."""


@by_dtype
@by_case
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    ("frozen", "feed"), [(FROZEN, Feed.TEACHER), ([], Feed.STUDENT)], ids=["frozen-teacher", "free-student"]
)
def test_a_lit_step_equals_the_naive_formulas(
    case: Case, dtype: torch.dtype, frozen: list[Part], beta: float, feed: Feed
) -> None:
    step = prepare(case, dtype, frozen)
    sections = len(case.student)
    objective = LitObjective(
        output_loss=OutputLoss(0.3, 4.0),
        beta=beta,
        measure=F.mse_loss,
        sections=sections,
        frozen=frozen,
        feed=feed,
    )
    losses = losses_of(objective, step.teacher, step.student, step.batch)
    losses.total.backward()
    total, kd, ir = naive.lit(
        step.naive_teacher,
        step.naive_student,
        step.x,
        step.y,
        alpha=0.3,
        beta=beta,
        tau=4.0,
        ir_loss="mse",
        feeds=(feed == Feed.TEACHER,) * sections,
        parts=case.parts,
    )
    total.backward()
    assert_close(losses.total, total, "total")
    assert ("kd_loss" in losses.parts) == (kd is not None) == (beta > 0)
    if kd is not None:
        assert_close(losses.parts["kd_loss"], kd, "kd")
    assert len(ir) == (sections if beta < 1 else 0)
    for n, wanted in enumerate(ir, start=1):
        assert_close(losses.parts[f"ir_loss_{n}"], wanted, f"ir {n}")
    assert_same_state(step, least=30)


@by_dtype
@by_case
def test_a_kd_step_equals_the_naive_formulas(case: Case, dtype: torch.dtype) -> None:
    step = prepare(case, dtype, [])
    losses = losses_of(KdObjective(OutputLoss(0.4, 3.0)), step.teacher, step.student, step.batch)
    losses.total.backward()
    z_t = naive.logits(step.naive_teacher, step.x, False, case.parts).detach()
    wanted = naive.kd(naive.logits(step.naive_student, step.x, True, case.parts), z_t, step.y, 0.4, 3.0)
    wanted.backward()
    assert_close(losses.total, wanted, "total")
    assert_same_state(step, least=30)


@by_dtype
@by_case
def test_attention_transfer_equals_the_naive_formulas(case: Case, dtype: torch.dtype) -> None:
    step = prepare(case, dtype, [])
    losses = losses_of(AttentionObjective(OutputLoss(0.5, 4.0), 1000.0), step.teacher, step.student, step.batch)
    losses.total.backward()
    wanted = naive.at(
        step.naive_teacher,
        step.naive_student,
        step.x,
        step.y,
        alpha=0.5,
        tau=4.0,
        weight=1000.0,
        parts=case.parts,
    )
    wanted.backward()
    assert_close(losses.total, wanted, "total")
    assert_same_state(step, least=30)


@by_dtype
@by_case
def test_training_from_scratch_equals_the_naive_formulas(case: Case, dtype: torch.dtype) -> None:
    step = prepare(case, dtype, [])
    losses = losses_of(LabelObjective(), step.teacher, step.student, step.batch)
    losses.total.backward()
    z = naive.logits(step.naive_student, step.x, True, case.parts)
    wanted = naive.kd(z, z.detach(), step.y, 1.0, 1.0)
    wanted.backward()
    assert_close(losses.total, wanted, "total")
    assert_same_state(step, least=30)


@by_case
def test_the_built_network_computes_what_the_naive_one_does(case: Case) -> None:
    step = prepare(case, torch.float64, [])
    with torch.no_grad():
        found = step.teacher.network(step.x)
        wanted = naive.logits(step.naive_teacher, step.x, False, case.parts)
    assert_close(found, wanted, "logits")
