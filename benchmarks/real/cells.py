"""A cell is one run: an arm of an experiment with a seed. What it is to do, what came of it, and several at once."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.real.arms import Asked, arguments, make
from benchmarks.real.data import Data, Draw
from benchmarks.real.experiments import ARMS, BATCH, DEFAULT, Experiment, Maker
from benchmarks.real.networks import NETWORKS, Output
from benchmarks.real.scores import outputs_of, scores
from benchmarks.whole_files import written_whole

Run = dict[str, Any]
Key = tuple[str, str, int, float | None]
"""Experiment, arm and seed; while rates are compared, the rate too."""


@dataclass(frozen=True)
class Cell:
    experiment: Experiment
    arm: str
    seed: int
    steps: int
    rate: float | None = None
    tuning: bool = False
    """Measured on validation samples, not on those of the test."""

    @property
    def key(self) -> Key:
        return self.experiment.name, self.arm, self.seed, self.rate if self.tuning else None

    @property
    def follows_default(self) -> bool:
        return ARMS[self.arm].follows_default(tuning=self.tuning)

    def __str__(self) -> str:
        return f"{self.experiment.name}/{self.arm}/{self.seed}" + ("" if self.rate is None else f" at {self.rate:g}")


@dataclass
class Results:
    """The runs that there are, in a file that is written after each new one."""

    file: Path
    order: Callable[[Run], Any]
    runs: list[Run] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By network: how many samples there are."""

    @classmethod
    def read(cls, file: Path, order: Callable[[Run], Any]) -> Results:
        found = json.loads(file.read_text()) if file.exists() else {}
        return cls(file, order, found.get("runs", []), found.get("data", {}))

    def of(self, cell: Cell) -> Run | None:
        return next((run for run in self.runs if key_of(run) == cell.key), None)

    def keep(self, run: Run, network: str, counts: dict[str, int]) -> None:
        self.runs = sorted([*(old for old in self.runs if key_of(old) != key_of(run)), run], key=self.order)
        self.counts[network] = counts
        lines = ",\n".join(json.dumps(run) for run in self.runs)
        with written_whole(self.file) as file:
            file.write_text(f'{{"data": {json.dumps(self.counts, sort_keys=True)},\n"runs": [\n{lines}\n]}}\n')


def key_of(run: Run) -> Key:
    return run["experiment"], run["arm"], run["seed"], run["rate"] if run["tuning"] else None


def arms_of(experiment: Experiment) -> list[str]:
    embedding = NETWORKS[experiment.network].output == Output.EMBEDDING
    return [name for name, arm in ARMS.items() if arm.embeddings or not embedding]


# --- one cell ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A network, its data and its own outputs, which all runs of a process share."""

    teacher: nn.Module
    data: Data
    outputs: Mapping[bool, Tensor]
    """On the test samples and, for tuning, on the validation samples."""


@lru_cache(maxsize=1)
def bench_of(network: str, cache: Path) -> Bench:
    teacher, data = NETWORKS[network].load(cache)
    return Bench(teacher, data, {tuning: outputs_of(teacher, data.measured(tuning=tuning)) for tuning in (False, True)})


def asked_of(cell: Cell, kept: Sequence[Sequence[int]] | None) -> Asked:
    experiment = cell.experiment
    draw = Draw(experiment.samples, cell.seed, cell.steps, BATCH, tuning=cell.tuning)
    return Asked(experiment.depth, draw, kept if cell.follows_default else None, cell.rate)


def configuration(cell: Cell, kept: Sequence[Sequence[int]] | None) -> dict[str, Any]:
    """As JSON, all that decides a run but the project's own code. A stored run with the same one is not run again."""
    arm, network, asked = ARMS[cell.arm], NETWORKS[cell.experiment.network], asked_of(cell, kept)
    found = {
        "network": cell.experiment.network,
        "data": network.data_version,
        "samples": cell.experiment.samples,
        "depth": cell.experiment.depth,
        "steps": cell.steps,
        "batch": BATCH,
        "arm": {"maker": arm.maker, **arguments(arm, network, asked)},
    }
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def run_cell(cell: Cell, kept: Sequence[Sequence[int]] | None, cache: Path) -> tuple[Run, dict[str, int]]:
    """The run, and how many samples its network's data has. `kept` are the blocks of the default's run."""
    bench, network = bench_of(cell.experiment.network, cache), NETWORKS[cell.experiment.network]
    started = time.process_time()
    made = make(ARMS[cell.arm], network, bench.teacher, bench.data, asked_of(cell, kept))
    # Of the processor, because whatever else runs on the machine takes its share of the time.
    seconds = time.process_time() - started
    outputs = outputs_of(made.student, bench.data.measured(tuning=cell.tuning))
    run = {
        "experiment": cell.experiment.name,
        "arm": cell.arm,
        "seed": cell.seed,
        "rate": cell.rate,
        "tuning": cell.tuning,
        **scores(outputs, bench.outputs[cell.tuning], network.output),
        "kept": [list(section) for section in made.kept],
        "parameters": _parameters(made.student),
        "teacher_parameters": _parameters(bench.teacher),
        "seconds": round(seconds, 1),
        "notes": made.notes,
        "configuration": configuration(cell, kept),
    }
    return run, bench.data.counts()


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --- several -------------------------------------------------------------------------------------------------


def run_all(
    cells: Iterable[Cell], results: Results, executor: Executor, workers: int, cache: Path, *, again: bool = False
) -> list[str]:
    """Run what isn't stored yet, and store each run at once. Returns the cells that failed, with the reason.

    A cell that needs the default's blocks waits until they are known.
    """
    waiting = list(cells)
    print(remaining([cell for cell in waiting if again or results.of(cell) is None], results, workers), flush=True)
    running: dict[Future[tuple[Run, dict[str, int]]], Cell] = {}
    problems: list[str] = []
    fresh: set[Key] = set()

    def kept_of(cell: Cell) -> Any:
        run = results.of(_default_of(cell))
        return None if run is None else run["kept"]

    def is_done(cell: Cell) -> bool:
        stored = results.of(cell)
        if stored is None or (again and cell.key not in fresh):
            return False
        return bool(stored["configuration"] == configuration(cell, kept_of(cell)))

    while waiting or running:
        open_defaults = {_group(cell) for cell in [*waiting, *running.values()] if cell.arm == DEFAULT}
        for cell in list(waiting):
            if len(running) == workers:
                break
            if cell.follows_default and _group(cell) in open_defaults:
                continue
            waiting.remove(cell)
            if cell.follows_default and kept_of(cell) is None:
                problems.append(f"{cell}: needs the blocks of {_default_of(cell)}, which has not been run")
            elif not is_done(cell):
                running[executor.submit(run_cell, cell, kept_of(cell), cache)] = cell
        if not running:
            continue
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            cell = running.pop(future)
            try:
                run, counts = future.result()
            except Exception as failure:  # noqa: BLE001 - told at the end, and the other cells go on
                traceback.print_exception(failure)
                problems.append(f"{cell}: {type(failure).__name__}: {failure}")
                continue
            results.keep(run, cell.experiment.network, counts)
            fresh.add(cell.key)
            print(f"{cell}: {told(run)}; {remaining([*waiting, *running.values()], results, workers)}", flush=True)
    return problems


def _group(cell: Cell) -> tuple[str, int]:
    return cell.experiment.name, cell.seed


def _default_of(cell: Cell) -> Cell:
    return Cell(cell.experiment, DEFAULT, cell.seed, cell.steps, tuning=cell.tuning)


def told(run: Run) -> str:
    names = ("agreement", "kl", "cosine", "spearman")
    return ", ".join(f"{name} {run[name]:g}" for name in names if name in run) + f", {run['seconds']:.0f} s"


def remaining(cells: Sequence[Cell], results: Results, workers: int) -> str:
    """About how long these cells will take."""
    minutes = sum(seconds_of(cell, results) for cell in cells) / workers / 60
    return f"{len(cells)} runs and about {minutes:.0f} minutes left"


def seconds_of(cell: Cell, results: Results) -> float:
    """Of the last runs of the same arm and network, or a guess from the steps."""
    network = cell.experiment.network
    alike = [
        run["seconds"]
        for run in results.runs
        if run["arm"] == cell.arm
        and run["seconds"] is not None
        and run["configuration"]["network"] == network
        and run["configuration"]["steps"] == cell.steps
    ]
    if alike:
        return float(sum(alike) / len(alike))
    return NETWORKS[network].step_seconds * cell.steps * (ARMS[cell.arm].maker != Maker.NOBODY)
