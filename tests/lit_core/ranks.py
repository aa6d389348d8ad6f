"""Runs a function in several processes of one gloo group."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_group(size: int, function: Callable[[Path], None], folder: Path) -> None:
    """Call `function(folder)` in `size` new processes of one group. Raises what one of them raised."""
    store = folder / "store"
    store.unlink(missing_ok=True)
    mp.spawn(_run, args=(size, function, folder, store), nprocs=size)


def _run(rank: int, size: int, function: Callable[[Path], None], folder: Path, store: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        function(folder)
    finally:
        dist.destroy_process_group()
