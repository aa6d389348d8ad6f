"""Runs a function in several processes of one gloo group."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

multiprocessing.set_forkserver_preload(["lit_core.trainer.job", "torch._dynamo"])
"""Loaded once, in the process that forks the groups of all tests, instead of in each process of each group."""


def in_group(size: int, function: Callable[[Path], None], folder: Path) -> None:
    """Call `function(folder)` in `size` new processes of one group. Raises what one of them raised."""
    store = folder / "store"
    store.unlink(missing_ok=True)
    mp.start_processes(_run, args=(size, function, folder, store), nprocs=size, start_method="forkserver")


def _run(rank: int, size: int, function: Callable[[Path], None], folder: Path, store: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        function(folder)
    finally:
        dist.destroy_process_group()
