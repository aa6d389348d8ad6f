"""A teacher that is spread over two processes teaches what the whole one teaches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_core.networks.features import FeatureReader
from lit_core.networks.layout import Layout
from lit_core.networks.lazy_loading import load_from_file
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.sharding import shard
from lit_core.training.group import ALONE, Group, Ranks
from lit_core.training.taught import LiveTeacher, Needs, Taught
from lit_core.training.updaters import distillation_updater
from lit_spec import Hyperparameters, Output, Phase, SpecError
from tests.lit_core.ranks import in_group
from tests.lit_core.training.test_group import batches
from tests.lit_core.training.test_losses import networks

NEEDS = Needs(trace=True, features=FeatureReader(Output.LOGITS))


def flat(taught: Taught) -> list[Tensor]:
    return [taught.output, taught.features, *taught.trace.inputs, *taught.trace.outputs]


def teach(group: Group, sharded: bool) -> dict[str, list[Tensor]]:
    """What the teacher makes of this process's rows, and the student after some steps with that teacher."""
    teacher, student = networks(torch.float64, "A", [])
    if sharded:
        shard(teacher, torch.device("cpu"), group.size)
    taught = flat(LiveTeacher(teacher, NEEDS)(group.share_of(batches(torch.float64)[0])))
    updater = distillation_updater(Hyperparameters(), Phase.LIT, teacher, student, {})
    for batch in batches(torch.float64):
        updater.step(group.share_of(batch), 0.05)
    parameters = list(teacher.network.parameters())
    held = [p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters]
    return {
        "taught": taught,
        "student": list(student.network.state_dict().values()),
        "held": [torch.tensor([sum(held), sum(p.numel() for p in parameters)])],
    }


class Scaled(nn.Module):
    """Has a parameter that can't be divided, and a block with fewer rows than there are processes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.blocks = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.blocks(x) * self.scale
        return made


def scaled(network: nn.Module) -> SectionedNetwork:
    return SectionedNetwork(network, Layout((), (("blocks.0", "blocks.1"),), ()))


@torch.no_grad()
def output_from_file(folder: Path) -> Tensor:
    network = scaled(Scaled())
    network.freeze()
    shard(network, torch.device("cpu"), dist.get_world_size())
    load_from_file(network.network, folder / "scaled.safetensors", torch.device("cpu"))
    output: Tensor = network.network(torch.eye(3))
    return output


def write(folder: Path) -> None:
    found = {**teach(Ranks(), sharded=True), "scaled": [output_from_file(folder)]}
    torch.save(found, folder / f"{dist.get_rank()}.pt")


def test_a_sharded_teacher_teaches_as_the_whole_one(tmp_path: Path) -> None:
    other = Scaled()
    save_file(other.state_dict(), tmp_path / "scaled.safetensors")
    in_group(2, write, tmp_path)
    whole = teach(ALONE, sharded=False)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for i, tensor in enumerate(whole["taught"]):
        torch.testing.assert_close(torch.cat([part["taught"][i] for part in parts]), tensor, rtol=1e-10, atol=1e-10)
    for part in parts:
        for made, wanted in zip(part["student"], whole["student"], strict=True):
            torch.testing.assert_close(made, wanted, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(part["scaled"][0], other(torch.eye(3)).detach())
        held, of_all = part["held"][0].tolist()
        assert held < 0.6 * of_all


def test_blocks_that_share_parameters_are_not_sharded() -> None:
    network = Scaled()
    network.blocks = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network.blocks[1].weight = network.blocks[0].weight
    with pytest.raises(SpecError, match="share parameters") as failure:
        shard(scaled(network), torch.device("cpu"), 2)
    assert failure.value.field == "shard_teacher"
