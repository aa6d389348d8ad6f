"""A teacher that is spread over two processes teaches what the whole one teaches."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_core.networks.features import FeatureReader
from lit_core.networks.sharding import shard
from lit_core.training.group import ALONE, Group, Ranks
from lit_core.training.taught import LiveTeacher, Needs, Taught
from lit_core.training.updaters import distillation_updater
from lit_spec import Hyperparameters, Output, Phase
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


def write(folder: Path) -> None:
    torch.save(teach(Ranks(), sharded=True), folder / f"{dist.get_rank()}.pt")


def test_a_sharded_teacher_teaches_as_the_whole_one(tmp_path: Path) -> None:
    in_group(2, write, tmp_path)
    whole = teach(ALONE, sharded=False)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for i, tensor in enumerate(whole["taught"]):
        torch.testing.assert_close(torch.cat([part["taught"][i] for part in parts]), tensor, rtol=1e-10, atol=1e-10)
    for part in parts:
        for made, wanted in zip(part["student"], whole["student"], strict=True):
            torch.testing.assert_close(made, wanted, rtol=1e-8, atol=1e-8)
        held, of_all = part["held"][0].tolist()
        assert held < 0.6 * of_all
