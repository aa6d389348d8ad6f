"""`make bench-train`: images per second of a training step, against a naive step and against the student alone.

All arms of a cell run in turns, each in a process of its own, on the same networks and the same batch. Prints a table
of medians with the least and the most of the rounds, the difference of the gradients from the naive step's and, as the
last line, a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import torch

from benchmarks.machine import describe
from benchmarks.stopping import exit_on_sigterm
from benchmarks.train.arms import Arm, Loss
from benchmarks.train.gradients import gradient_error
from benchmarks.train.process import COMPARED, Cell, Steps, StepsElsewhere
from benchmarks.train.workloads import short_workloads, workloads
from lit_spec import Precision


@dataclass(frozen=True)
class Effort:
    rounds: int
    seconds: float
    """Of each arm a round takes about so long, and at least one step."""


USUAL, FULL, SHORT = Effort(5, 1.0), Effort(7, 2.0), Effort(1, 0.0)


@dataclass(frozen=True)
class Measured:
    """One arm in one cell."""

    cell: Cell
    arm: Arm
    rates: list[float]
    """Images (or texts) per second, by round."""
    gradient_error: float | None
    """None for arms that aim at other gradients than the naive step's."""

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def measure(cell: Cell, arms: Sequence[Arm], effort: Effort) -> list[Measured]:
    """In the short form in this process, because starting one takes seconds."""
    arms = [arm for arm in arms if arm.suits(cell.loss)]
    errors = {arm: gradient_error(cell, arm) for arm in arms if arm in COMPARED}
    rates: dict[Arm, list[float]] = {arm: [] for arm in arms}
    with ExitStack() as stack:
        runners: dict[Arm, Steps | StepsElsewhere] = {}
        for arm in arms:
            runners[arm] = Steps(cell, arm) if cell.short else stack.enter_context(closing(StepsElsewhere(cell, arm)))
        counts = {arm: _count(runner, effort) for arm, runner in runners.items()}
        for _ in range(effort.rounds):
            for arm, runner in runners.items():
                rates[arm].append(cell.batch / statistics.median(runner.seconds(counts[arm])))
    return [Measured(cell, arm, rates[arm], errors.get(arm)) for arm in arms]


def _count(runner: Steps | StepsElsewhere, effort: Effort) -> int:
    return max(1, round(effort.seconds / runner.seconds(1)[0]))


def cells(device: str, threads: int, *, short: bool) -> list[Cell]:
    found = short_workloads() if short else workloads(torch.device(device))
    precisions = [Precision.FLOAT32, *([Precision.BFLOAT16] if device == "cuda" else [])]
    return [
        Cell(workload.name, workload.batch, loss, precision, device, threads, short)
        for workload in found
        for loss in Loss
        for precision in precisions
    ]


def print_table(found: Sequence[Measured]) -> None:
    naive = {one.cell: one.rate for one in found if one.arm == Arm.NAIVE}
    print(
        f"{'networks':16} {'batch':>5} {'loss':7} {'training in':12} {'arm':14} {'a second':>9}  "
        f"{'least to most':>17} {'/ naive':>8}  gradients' difference"
    )
    for one in found:
        cell = one.cell
        ratio = f"{one.rate / naive[cell]:8.2f}" if cell in naive else " " * 8
        error = "" if one.gradient_error is None else f"{one.gradient_error:.1e}"
        print(
            f"{cell.workload:16} {cell.batch:5} {cell.loss:7} {cell.precision:12} {one.arm:14} {one.rate:9.1f}  "
            f"{min(one.rates):8.1f} {max(one.rates):8.1f} {ratio}  {error}"
        )


def summary(found: Sequence[Measured], effort: Effort) -> dict[str, object]:
    naive = {one.cell: one.rate for one in found if one.arm == Arm.NAIVE}
    return {
        "bench": "train",
        "machine": describe(),
        "load": round(os.getloadavg()[0], 2),
        "rounds": effort.rounds,
        "seconds": effort.seconds,
        "results": [
            {
                "networks": one.cell.workload,
                "batch": one.cell.batch,
                "loss": one.cell.loss.value,
                "precision": one.cell.precision.value,
                "device": one.cell.device,
                "arm": one.arm.value,
                "per_second": round(one.rate, 2),
                "least": round(min(one.rates), 2),
                "most": round(max(one.rates), 2),
                "ratio_to_naive": None if one.cell not in naive else round(one.rate / naive[one.cell], 3),
                "gradient_error": one.gradient_error,
            }
            for one in found
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks/batch/loss, or the beginning of that")
    parser.add_argument("--arms", nargs="*", type=Arm, default=list(Arm), choices=list(Arm))
    efforts = parser.add_mutually_exclusive_group()
    efforts.add_argument("--full", action="store_true", help="more and longer rounds, twice as long in all")
    efforts.add_argument("--short", action="store_true", help="small networks and one round, to try the benchmark")
    parser.add_argument("--rounds", type=int, help=f"by default {USUAL.rounds}")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args(arguments)
    effort = SHORT if asked.short else FULL if asked.full else USUAL
    effort = replace(effort, rounds=asked.rounds or effort.rounds)
    torch.set_num_threads(asked.threads)
    chosen = [
        cell
        for cell in cells(asked.device, asked.threads, short=asked.short)
        if f"{cell.workload}/{cell.batch}/{cell.loss}".startswith(asked.only)
    ]
    if not chosen:
        parser.error(f"--only {asked.only} names no networks/batch/loss: leave it out to see all")
    found = [one for cell in chosen for one in measure(cell, asked.arms, effort)]
    print_table(found)
    print(json.dumps(summary(found, effort)))
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
