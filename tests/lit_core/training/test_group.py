"""Steps of several processes against the same steps of one: losses, gradients, weights and BatchNorm's buffers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lit_core.data.labels import NO_LABEL
from lit_core.training.adversarial import AdversarialUpdater
from lit_core.training.batch import Batch
from lit_core.training.batch_statistics import WholeBatchStatistics
from lit_core.training.group import ALONE, Group, Ranks
from lit_core.training.mixing import mixed
from lit_core.training.pruning import prune_by
from lit_core.training.updaters import Updater, distillation_updater
from lit_spec import Adversarial, Feed, Hyperparameters, Method, Phase, Schedule
from tests.lit_core.ranks import in_group
from tests.lit_core.training.test_adversarial import a_discriminator, images, sectioned
from tests.lit_core.training.test_losses import networks

CLIPPED = Schedule(gradient_clip=0.5)
CASES: dict[str, Hyperparameters] = {
    "lit": Hyperparameters(schedule=CLIPPED, feed=Feed.TEACHER, noise=0.1),
    "lit, ir alone": Hyperparameters(beta=0, feed=Feed.SCHEDULED),
    "lit, relative, with features": Hyperparameters(ir_relative=True, feature_weight=0.5, feed=Feed.STUDENT),
    "kd": Hyperparameters(method=Method.KD, mixing=0.5),
    "at": Hyperparameters(method=Method.AT),
    "mimic": Hyperparameters(method=Method.MIMIC, schedule=Schedule(optimizer="adam")),
    "scratch": Hyperparameters(method=Method.SCRATCH),
}
SIZES = (6, 7, 1)
"""Of the batches, one after another. They don't divide, and the last one is smaller than the group."""
RATE = 0.05
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3}
TWO_PHASES = [(name, dtype) for name in CASES for dtype in (torch.float64, torch.float32)]


def batches(dtype: torch.dtype) -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    made = []
    for step, size in enumerate(SIZES):
        x = torch.randn(size, 2, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
        labels = torch.arange(size) % 5
        labels[size // 2] = NO_LABEL
        made.append(Batch((x,), labels, 0.3, torch.Generator().manual_seed(step)))
    return made


def state_after(updater: Updater, network: nn.Module, given: list[Batch], group: Group) -> dict[str, Tensor]:
    losses = [updater.step(group.share_of(batch), RATE) for batch in given]
    return {**network.state_dict(), "losses": torch.stack(losses)}


def distilled(name: str, dtype: torch.dtype, group: Group) -> dict[str, Tensor]:
    spec = CASES[name]
    teacher, student = networks(dtype, "A", [])
    masks = prune_by(student.network, 0.3) if name == "kd" else {}
    updater = distillation_updater(spec, Phase.LIT, teacher, student, masks)
    return state_after(updater, student.network, [mixed(one, spec.mixing) for one in batches(dtype)], group)


def adversarial(group: Group) -> dict[str, Tensor]:
    student, discriminator = sectioned(1, "main", 2), a_discriminator()
    weights, schedule = Adversarial(n_critic=2), Schedule(optimizer="adam", weight_decay=0)
    updater = AdversarialUpdater(student, discriminator, weights, schedule, frozen=[], exclusive=True)
    x, own, target = images(exclusive=True)
    given = [
        Batch((x[:size], target[:size]), own[:size], 0.0, torch.Generator().manual_seed(step))
        for step, size in enumerate((4, 3, 4, 1))
    ]
    both = nn.ModuleList([student.network, discriminator])
    return state_after(updater, both, given, group)


def all_cases(group: Group) -> dict[str, dict[str, Tensor]]:
    found = {f"{name}, {dtype}": distilled(name, dtype, group) for name, dtype in TWO_PHASES}
    return found | {"adversarial, torch.float64": adversarial(group)}


def write_cases(folder: Path) -> None:
    group = Ranks()
    torch.save(all_cases(group), folder / f"{group.rank}.pt")


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.long)])
def test_the_steps_of_a_group_are_those_of_one_process(size: int, tmp_path: Path) -> None:
    in_group(size, write_cases, tmp_path)
    wanted = all_cases(ALONE)
    made = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    for case, tensors in wanted.items():
        dtype = torch.float64 if "64" in case else torch.float32
        for name, tensor in tensors.items():
            assert torch.equal(made[0][case][name], made[-1][case][name]), f"{case}: the ranks differ in {name}"
            error = float((made[0][case][name] - tensor).double().norm())
            assert error <= TOLERANCE[dtype] * float(tensor.double().norm()) + 1e-12, f"{case}, {name}: {error}"


def normalise(folder: Path) -> None:
    """BatchNorm of uneven rows, with each kind of argument, and its gradients."""
    rank = dist.get_rank()
    found = {}
    for name, x, norm in norms():
        rows = slice(0, 2) if rank == 0 else slice(2, 5)
        own = x[rows].clone().requires_grad_(True)
        with WholeBatchStatistics(copies=1):
            made = norm(own)
        (made * torch.arange(float(made.numel()), dtype=x.dtype).view_as(made)).sum().backward()
        found[name] = (made.detach(), own.grad, [p.grad for p in norm.parameters()], dict(norm.named_buffers()))
    torch.save(found, folder / f"{rank}.pt")


def norms() -> list[tuple[str, Tensor, nn.Module]]:
    generator = torch.Generator().manual_seed(3)
    flat = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    image = 100 + torch.randn(5, 3, 4, 2, generator=generator, dtype=torch.float64)
    evaluated = nn.BatchNorm1d(3).double().eval()
    return [
        ("of vectors", flat, nn.BatchNorm1d(3).double()),
        ("of images", image, nn.BatchNorm2d(3).double()),
        ("without weights", image, nn.BatchNorm2d(3, affine=False).double()),
        ("without running statistics", flat, nn.BatchNorm1d(3, track_running_stats=False).double()),
        ("cumulative", image, nn.BatchNorm2d(3, momentum=None).double()),
        ("in eval mode", flat, evaluated),
    ]


def test_batch_norm_over_a_group_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    in_group(2, normalise, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, x, norm in norms():
        whole = x.clone().requires_grad_(True)
        made = norm(whole)
        weights = [torch.arange(float(part.numel()), dtype=x.dtype).view_as(part) for part in (made[:2], made[2:])]
        (made * torch.cat(weights)).sum().backward()
        close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        close(torch.cat([first[name][0], second[name][0]]), made.detach())
        close(torch.cat([first[name][1], second[name][1]]), whole.grad)
        for one, other, parameter in zip(first[name][2], second[name][2], norm.parameters(), strict=True):
            close(one + other, parameter.grad)
        for key, buffer in norm.named_buffers():
            close(first[name][3][key], buffer)
            assert torch.equal(first[name][3][key], second[name][3][key])


def exchange(folder: Path) -> None:
    group = Ranks()
    found: dict[str, Any] = {
        "wanted": [group.any_wants(group.rank == one) for one in (0, 1, 2)],
        "computed": group.from_first(lambda: {"rank": group.rank, "state": {"w": torch.tensor([1.5])}, "none": None}),
    }
    network = nn.BatchNorm1d(2)
    with torch.no_grad():
        network.weight.fill_(group.rank)
        network.running_mean.fill_(group.rank)  # type: ignore[union-attr, operator]
    group.same_weights(network)
    found["network"] = network.state_dict()
    skipped, used = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    batch = group.share_of(Batch((torch.ones(4, 2),), torch.zeros(4).long()))
    # Only one of the processes uses this parameter, as a network that skips blocks at random may.
    loss = (used * batch.inputs[0]).sum() if group.rank == 0 else (0 * batch.inputs[0]).sum().requires_grad_(True)
    batch.share.backward(loss, [skipped, used])
    found["gradients"] = [skipped.grad, used.grad]
    torch.save(found, folder / f"{group.rank}.pt")


def test_what_one_process_wants_or_measures_holds_for_all_and_a_parameter_that_nobody_uses_keeps_no_gradient(
    tmp_path: Path,
) -> None:
    in_group(2, exchange, tmp_path)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["wanted"] == [True, True, False]
        assert found["computed"] == {"rank": 0, "state": {"w": torch.tensor([1.5])}, "none": None}
        assert not any(bool(tensor.any()) for tensor in (found["network"]["weight"], found["network"]["running_mean"]))
        skipped, used = found["gradients"]
        assert skipped is None
        assert torch.equal(used, torch.ones(2))
