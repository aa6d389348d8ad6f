"""A job's step in float64 against the losses written out with plain modules.

What is folded, shared and used again on the way may change rounding alone, of which float64 leaves next to nothing. In
float32 the gradients of deep networks differ by 1e-3, which could hide a fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from lit_core.networks.layout import Layout
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.training.batch import Batch
from lit_core.training.taught import LiveTeacher
from lit_core.training.updaters import distillation_updater
from lit_spec import Hyperparameters, Method, Part, Phase

ALPHA, TAU = 0.5, 4.0
X = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([0, 3, 1, 4, 2, 0])
SECTIONS = tuple(tuple(f"layer{n}.{block}" for block in range(2)) for n in range(1, 5))
STEM_AND_HEAD = [Part.STEM, Part.HEAD]


@pytest.fixture(scope="module")
def teacher() -> SectionedNetwork:
    """Bottlenecks whose BatchNorm has the statistics of its own inputs, as in a trained network. With those of a new
    one, representations grow from block to block until the loss of one section outweighs all others."""
    torch.manual_seed(0)
    network = ResNet(Bottleneck, (2, 2, 2, 2), num_classes=5, channels=(4, 6, 8, 10)).double()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        network(X)
    for norm in norms:
        norm.momentum = 0.1
    found = SectionedNetwork(network, Layout(("conv1", "bn1"), SECTIONS, ("fc",)))
    found.freeze()
    return found


@dataclass(frozen=True)
class Stepped:
    """What a step leaves behind."""

    losses: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    statistics: Mapping[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, losses: Mapping[str, Tensor]) -> Stepped:
        gradients = {name: one.grad for name, one in network.named_parameters() if one.grad is not None}
        return cls(losses, gradients, {name: one.clone() for name, one in network.named_buffers()})


def by_hand(teacher: nn.Module, student: nn.Module, method: Method, beta: float) -> Stepped:
    """`β·KD + (1-β)·Σ MSE`, each section on what the teacher's section before it puts out. The IR path changes
    BatchNorm's statistics only where it is the only path."""
    with torch.no_grad():
        entered = teacher.maxpool(teacher.act1(teacher.bn1(teacher.conv1(X))))
        taught = [entered]
        for section in (teacher.layer1, teacher.layer2, teacher.layer3, teacher.layer4):
            taught.append(section(taught[-1]))
        wanted = teacher.fc(taught[-1].mean(dim=(2, 3)))
    losses: dict[str, Tensor] = {}
    whole_pass = method == Method.KD or beta > 0
    if whole_pass:
        made = student(X)
        soft = -(F.softmax(wanted / TAU, dim=1) * F.log_softmax(made / TAU, dim=1)).sum(dim=1).mean()
        losses["kd_loss"] = ALPHA * F.cross_entropy(made, Y) + (1 - ALPHA) * TAU**2 * soft
    kept = {name: one.clone() for name, one in student.named_buffers()}
    weight = 1.0 if method == Method.KD else beta
    terms = [weight * losses["kd_loss"]] if whole_pass else []
    if method == Method.LIT and beta < 1:
        sections = (student.layer1, student.layer2, student.layer3, student.layer4)
        for n, (section, given, right) in enumerate(zip(sections, taught, taught[1:], strict=False), start=1):
            losses[f"ir_loss_{n}"] = F.mse_loss(section(given), right)
            terms.append((1 - beta) * losses[f"ir_loss_{n}"])
    losses["loss"] = torch.stack(terms).sum()
    losses["loss"].backward()
    if whole_pass:
        for name, one in student.named_buffers():
            one.copy_(kept[name])
    return Stepped.of(student, losses)


CASES = {
    "lit": (Method.LIT, 0.5, STEM_AND_HEAD),
    "lit, all trained": (Method.LIT, 0.5, []),
    "ir alone": (Method.LIT, 0.0, STEM_AND_HEAD),
    "lit without ir": (Method.LIT, 1.0, STEM_AND_HEAD),
    "kd": (Method.KD, 0.5, []),
}


@pytest.mark.parametrize("name", CASES)
def test_a_jobs_step_is_the_step_by_hand(teacher: SectionedNetwork, name: str) -> None:
    method, beta, frozen = CASES[name]
    given = Hyperparameters.model_validate(
        {"alpha": ALPHA, "beta": beta, "tau": TAU, "feed": "teacher", "schedule": {"lit": {"frozen": frozen}}}
    )
    spec = given.model_copy(update={"method": method})
    student, other = (shortened(teacher, [[0]] * len(SECTIONS)) for _ in range(2))
    updater = distillation_updater(spec, Phase.LIT, teacher, student, {})
    losses = updater.step(Batch((X,), Y), learning_rate=0.01)
    found = Stepped.of(student.network, dict(zip(updater.names, losses, strict=True)))
    assert isinstance(updater.teacher, LiveTeacher)
    assert updater.teacher._program is not teacher, "the teacher's BatchNorm was not folded"

    other.train(frozen)
    wanted = by_hand(teacher.network, other.network, method, beta)
    for one, right in (
        (found.losses, wanted.losses),
        (found.gradients, wanted.gradients),
        (found.statistics, wanted.statistics),
    ):
        assert one.keys() == right.keys()
        for part, tensor in right.items():
            torch.testing.assert_close(one[part], tensor, rtol=1e-9, atol=1e-12, msg=lambda m, p=part: f"{p}: {m}")
