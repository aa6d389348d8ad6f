"""One arm in a process of its own, so that none profits or suffers from another's allocator, caches and settings."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from benchmarks.train.arms import Arm, Loss, step_of
from benchmarks.train.workloads import Workload, short_workloads, workloads
from lit_core.trainer.environment import prepare_torch
from lit_spec import Precision
from lit_spec.trainer.run import TrainerRun

WARM_STEPS = 2
COMPARED = (Arm.EXACT, Arm.BF16_TEACHER)
"""Arms whose gradients are compared with the naive step's."""
OURS = (*COMPARED, Arm.CACHED, Arm.FEW_CACHED)
"""Arms that run as in the service's trainer."""


PRELOADED = [__name__, "torch._dynamo"]
"""The second one is loaded with the first optimizer, which takes as long as loading torch."""


@dataclass(frozen=True)
class Cell:
    """What one arm trains."""

    workload: str
    batch: int
    loss: Loss
    precision: Precision
    device: str
    threads: int
    short: bool

    def found(self) -> Workload:
        """A workload has functions, which don't pass between processes."""
        known = short_workloads() if self.short else workloads(torch.device(self.device))
        return next(one for one in known if (one.name, one.batch) == (self.workload, self.batch))


class Steps:
    """An arm, built and warmed up."""

    def __init__(self, cell: Cell, arm: Arm) -> None:
        workload, self.device = cell.found(), torch.device(cell.device)
        self.step = step_of(arm, workload, cell.loss, workload.networks(self.device), cell.precision)
        for _ in range(1 if cell.short else WARM_STEPS):
            self.step()

    def seconds(self, count: int) -> list[float]:
        """Of each step."""
        return [self._seconds() for _ in range(count)]

    def _seconds(self) -> float:
        started = time.perf_counter()
        self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


class StepsElsewhere:
    """An arm in another process."""

    def __init__(self, cell: Cell, arm: Arm) -> None:
        # Forked from a process that has loaded torch and has done nothing with it.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.pipe: Connection
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(cell, arm, other), daemon=True)
        self.process.start()
        other.close()
        # Building and warming up take the whole machine.
        self.pipe.recv()

    def seconds(self, count: int) -> list[float]:
        self.pipe.send(count)
        found: list[float] = self.pipe.recv()
        return found

    def close(self) -> None:
        self.pipe.send(0)
        self.process.join()


def _serve(cell: Cell, arm: Arm, pipe: Connection) -> None:
    """Say that the arm is ready, then take as many steps as asked, and tell their seconds. 0 ends it."""
    _prepare(cell, arm)
    steps = Steps(cell, arm)
    pipe.send("ready")
    while count := pipe.recv():
        pipe.send(steps.seconds(count))


def _prepare(cell: Cell, arm: Arm) -> None:
    torch.set_num_threads(cell.threads)
    if arm in OURS:
        run = {"device": cell.device, "threads": cell.threads, "attempt": 1}
        prepare_torch(TrainerRun.model_validate(run))
