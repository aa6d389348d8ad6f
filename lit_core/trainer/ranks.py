"""The processes of one job's training ("ranks"): what each knows of its place, and how they find each other.

The launcher (`lit_core.trainer.launch`) sets the variables that are read here, those of torch's elastic launcher.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from lit_core.training.group import ALONE, Group, Ranks

WAIT = timedelta(days=7)
"""How long a rank waits for the others: as long as the first one measures, for example. One that ends is noticed at
once, and one that stands still by the deadlines of its worker."""


def rank() -> int:
    """This process's number among all ranks of the job; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Its number among the ranks of this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_ranks() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def group_of_ranks(device: str) -> Iterator[Group]:
    """The group of all ranks, which meet here; a group of one without a launcher."""
    if ranks() == 1:
        yield ALONE
        return
    # Decisions and other small things are exchanged by the CPU also where gradients are summed by NCCL.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=WAIT)
    try:
        yield Ranks()
    finally:
        dist.destroy_process_group()
