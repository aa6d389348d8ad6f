"""A generator's losses and steps against the naive formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_core.networks.families import family_of
from lit_core.networks.families.stargan import Discriminator
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.adversarial import (
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    AdversarialUpdater,
    discriminator_losses,
    generator_losses,
)
from lit_core.training.batch import Batch
from lit_core.training.objectives import objective_of
from lit_spec import Adversarial, Architecture, Hyperparameters, Part, Phase, Schedule, Task
from tests.lit_core import naive_stargan
from tests.lit_core.naive_stargan import Tensors
from tests.lit_core.training.taught_step import losses_of

LAYERS, DOMAINS, SIDE = 2, 3, 8
WEIGHTS = Adversarial(classification=1.5, reconstruction=7, gradient_penalty=9, n_critic=2)
NAIVE_WEIGHTS = (1.5, 7.0, 9.0)
RATE = 1e-5
"""Small: Adam makes much of gradients that are nothing but rounding."""
DOMAIN_KINDS = pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "attributes"])
NAMES = pytest.mark.parametrize("names", ["main", "sections"])


def stirred(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """In float64, with every parameter away from its initial value."""
    draws = torch.Generator().manual_seed(seed)
    for parameter in network.double().parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    return network


def sectioned(blocks: int, names: str, seed: int) -> SectionedNetwork:
    torch.manual_seed(seed)
    arch = Architecture(
        family="stargan",
        task=Task.TRANSLATION,
        depth=6 + 2 * blocks,
        blocks=[blocks],
        channels=3,
        classes=DOMAINS,
        options={"conv_dim": 2, "names": names, "running_statistics": True},
    )
    family = family_of(arch)
    return SectionedNetwork(stirred(family.build(arch), seed), family.layout(arch))


def a_discriminator() -> Discriminator:
    torch.manual_seed(5)
    network = Discriminator(3, DOMAINS, 3, LAYERS, SIDE // 2**LAYERS)
    stirred(network, 5)
    return network


def tensors_of(network: torch.nn.Module) -> Tensors:
    """Copies, parameters as leaves with gradients."""
    copies = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for name, _ in network.named_parameters():
        copies[name].requires_grad_(True)
    return copies


def images(exclusive: bool, batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Images, their own domains and their targets."""
    draws = torch.Generator().manual_seed(7)
    x = torch.rand(batch, 3, SIDE, SIDE, generator=draws, dtype=torch.float64) * 2 - 1
    own = torch.eye(DOMAINS, dtype=torch.float64)[torch.arange(batch) % DOMAINS]
    if not exclusive:
        own = (torch.rand(batch, DOMAINS, generator=draws) < 0.5).double()
    return x, own, own[torch.randperm(batch, generator=draws)]


def assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=lambda text: f"{what}: {text}")


def assert_same_gradients(network: torch.nn.Module, tensors: Tensors) -> None:
    for name, parameter in network.named_parameters():
        wanted = tensors[name].grad
        assert (parameter.grad is None) == (wanted is None), name
        if wanted is not None and parameter.grad is not None:
            assert_close(parameter.grad, wanted, name)


@NAMES
def test_the_ir_loss_equals_the_naive_formulas(names: str) -> None:
    teacher, student = sectioned(3, names, 1), sectioned(2, names, 2)
    teacher.freeze()
    spec = Hyperparameters(beta=0)
    spec.schedule.lit.frozen = [Part.STEM, Part.HEAD]
    student.train([Part.STEM, Part.HEAD])
    tensors, (x, own, target) = tensors_of(student.network), images(exclusive=True)
    losses = losses_of(objective_of(spec, Phase.LIT, 1), teacher, student, Batch((x, target), own))
    losses.total.backward()
    wanted = naive_stargan.ir_loss(dict(teacher.network.state_dict()), tensors, (3, 2), names, x, target)
    wanted.backward()
    assert list(losses.parts) == ["ir_loss_1"]
    assert_close(losses.total, wanted, "total")
    assert_same_gradients(student.network, tensors)
    trunk = tuple(f"{block}." for block in naive_stargan.places(2, names)[1])
    for name, parameter in student.network.named_parameters():
        assert (parameter.grad is not None) == name.startswith(trunk), name


@DOMAIN_KINDS
def test_the_discriminators_losses_equal_the_naive_formulas(exclusive: bool) -> None:
    network = a_discriminator()
    tensors, (x, own, _) = tensors_of(network), images(exclusive)
    draws = torch.Generator().manual_seed(9)
    fake = torch.rand(x.shape, generator=draws, dtype=torch.float64) * 2 - 1
    mix = torch.rand(4, 1, 1, 1, generator=draws, dtype=torch.float64)
    losses = discriminator_losses(network, x, fake, own, mix, WEIGHTS, exclusive=exclusive)
    losses.total.backward()
    wanted = naive_stargan.discriminator_loss(tensors, LAYERS, x, fake, own, mix, NAIVE_WEIGHTS, exclusive)
    wanted[0].backward()
    assert list(losses.parts) == list(DISCRIMINATOR_LOSSES)
    for ours, theirs, what in zip((losses.total, *losses.parts.values()), wanted, range(4), strict=True):
        assert_close(ours, theirs, f"loss {what}")
    assert_same_gradients(network, tensors)


@NAMES
@DOMAIN_KINDS
def test_the_generators_losses_equal_the_naive_formulas(exclusive: bool, names: str) -> None:
    student, network = sectioned(2, names, 2), a_discriminator()
    tensors, others = tensors_of(student.network), tensors_of(network)
    x, own, target = images(exclusive)
    losses = generator_losses(student.network, network, x, own, target, WEIGHTS, exclusive=exclusive)
    losses.total.backward()
    wanted = naive_stargan.generator_loss(tensors, others, 2, names, LAYERS, x, own, target, NAIVE_WEIGHTS, exclusive)
    wanted[0].backward()
    assert list(losses.parts) == list(GENERATOR_LOSSES)
    for ours, theirs, what in zip((losses.total, *losses.parts.values()), wanted, range(4), strict=True):
        assert_close(ours, theirs, f"loss {what}")
    assert_same_gradients(student.network, tensors)


@DOMAIN_KINDS
def test_steps_equal_the_naive_formulas_in_every_parameter(exclusive: bool) -> None:
    """Two steps of the discriminator, then one of the student, all by Adam."""
    student, network = sectioned(2, "main", 2), a_discriminator()
    g, d = tensors_of(student.network), tensors_of(network)
    x, own, target = images(exclusive)
    schedule = Schedule(optimizer="adam", adam_betas=[0.5, 0.999], weight_decay=0)
    updater = AdversarialUpdater(student, network, WEIGHTS, schedule, frozen=[], exclusive=exclusive)
    before = tensors_of(student.network)
    adams = {name: naive_stargan.Adam(RATE, (0.5, 0.999)) for name in ("g", "d")}
    for step in range(2):
        row = updater.step(Batch((x, target), own, 0.0, torch.Generator().manual_seed(step)), RATE)
        mix = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        with torch.no_grad():
            fake = naive_stargan.generator(g, 2, "main", x, target)
        critic = naive_stargan.discriminator_loss(d, LAYERS, x, fake, own, mix, NAIVE_WEIGHTS, exclusive)
        critic[0].backward()
        adams["d"].step(d)
        made = naive_stargan.generator_loss(g, d, 2, "main", LAYERS, x, own, target, NAIVE_WEIGHTS, exclusive)
        assert_close(row, torch.stack([*made, *critic]).detach(), f"step {step}")
        if step == 0:
            # The student isn't due yet; what is told of it is where it begins.
            assert all(torch.equal(p, before[name]) for name, p in student.network.named_parameters())
    made[0].backward()
    adams["g"].step(g)
    for name, parameter in student.network.named_parameters():
        assert_close(parameter, g[name], name)
        assert not torch.equal(parameter, before[name]), name
    for name, parameter in network.named_parameters():
        assert_close(parameter, d[name], name)


def test_between_its_steps_the_students_losses_are_those_of_its_last() -> None:
    student, network = sectioned(1, "main", 2), a_discriminator()
    x, own, target = images(exclusive=True)
    schedule = Schedule(optimizer="adam", weight_decay=0)
    updater = AdversarialUpdater(student, network, WEIGHTS, schedule, frozen=[], exclusive=True)
    rows = torch.stack([updater.step(Batch((x, target), own), 1e-3) for _ in range(5)])
    students, discriminators = rows[:, :4], rows[:, 4:]
    assert torch.equal(students[1], students[2])
    assert torch.equal(students[3], students[4])
    assert not torch.equal(students[2], students[3])
    assert len(discriminators.unique(dim=0)) == 5


def test_frozen_parts_of_the_student_stay() -> None:
    student, network = sectioned(1, "main", 2), a_discriminator()
    before = tensors_of(student.network)
    x, own, target = images(exclusive=True)
    schedule = Schedule(optimizer="adam", weight_decay=0)
    frozen = [Part.STEM, Part.HEAD]
    updater = AdversarialUpdater(student, network, WEIGHTS, schedule, frozen=frozen, exclusive=True)
    for _ in range(2):
        updater.step(Batch((x, target), own), 1e-2)
    changed = {name for name, p in student.network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, _ in student.network.named_parameters() if name.startswith("main.9.")}
