"""`make evidence REAL=1`: the methods on real pretrained networks, from few samples without labels.

Writes docs/evidence-real.json after each run, and docs/evidence.md at the end. Runs that are stored are not run again,
so the command goes on where it was stopped; `--again` runs them all the same. Everything that is needed comes from PyPI
and Debian, and stays in the cache.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.evidence.page import write_text
from benchmarks.packages import FetchFailed
from benchmarks.real.cells import Cell, Results, Run, arms_of, run_all
from benchmarks.real.experiments import ARMS, EXPERIMENTS, Experiment, tuned
from benchmarks.real.networks import NETWORKS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs/evidence-real.json"
CACHE = Path(__file__).with_name("cache")
WORKERS = 2
"""Processes of one thread each."""


def main() -> int:
    arguments = parsed(__doc__, "run")
    cache: Path = arguments.cache
    rehearsal = arguments.steps is not None
    results = Results.read(cache / "rehearsal.json" if rehearsal else RESULTS, place_of)
    cells = cells_of(arguments.only, arguments.steps)
    if not cells:
        raise SystemExit(
            f"{arguments.only} is no experiment, experiment/arm or experiment/arm/seed: choose of {names()}"
        )
    fetch({cell.experiment.network for cell in cells}, cache)
    with one_thread_each(WORKERS) as executor:
        problems = run_all(cells, results, executor, WORKERS, cache, again=arguments.again)
    if not rehearsal:
        write_text(ROOT / "docs")
    print(json.dumps({"cells": len(cells), "runs": len(results.runs), "failed": problems}))
    return 1 if problems else 0


def parsed(description: str | None, name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.real.{name}", description=description)
    parser.add_argument("--only", default="", help="experiment, experiment/arm, or experiment/arm/seed")
    parser.add_argument("--steps", type=int, help="for a rehearsal: steps of each run; results go into the cache")
    parser.add_argument("--again", action="store_true", help="run what is stored again")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for what is downloaded")
    return parser.parse_args()


def cells_of(only: str, steps: int | None) -> list[Cell]:
    """In the order of the experiments and seeds; an arm that others follow comes first."""
    name, arm, seed = [*only.split("/"), "", "", ""][:3]
    return [
        Cell(experiment, own, number, steps or experiment.steps, rate_of(experiment, own, rehearsal=steps is not None))
        for experiment in EXPERIMENTS
        if name in ("", experiment.name)
        for number in range(experiment.seeds)
        if seed in ("", str(number))
        for own in arms_of(experiment)
        if arm in ("", own)
    ]


def rate_of(experiment: Experiment, arm: str, *, rehearsal: bool = False) -> float | None:
    """Raises SystemExit for a tuned arm whose rate has not been chosen."""
    if not ARMS[arm].rates:
        return None
    rates = tuned().get(experiment.rates_of, {})
    if rehearsal:
        return rates.get(arm, ARMS[arm].rates[0])
    if arm not in rates:
        raise SystemExit(
            f"benchmarks/real/tuned.json has no learning rate of {arm} for {experiment.rates_of}: "
            "run make evidence-tuning REAL=1"
        )
    return rates[arm]


def names() -> str:
    return ", ".join(experiment.name for experiment in EXPERIMENTS)


def place_of(run: Run) -> tuple[int, int, int, float]:
    """Runs are stored in the order of the experiments and arms."""
    order = [experiment.name for experiment in EXPERIMENTS]
    place = order.index(run["experiment"]) if run["experiment"] in order else len(order)
    return place, list(ARMS).index(run["arm"]) if run["arm"] in ARMS else len(ARMS), run["seed"], run["rate"] or 0.0


def fetch(networks: set[str], cache: Path) -> None:
    """Download and prepare everything, so that the processes only read it. Raises SystemExit."""
    for name in sorted(networks):
        print(f"{name}: fetching what is not in {cache}", flush=True)
        try:
            _, data = NETWORKS[name].load(cache)
        except FetchFailed as failure:
            raise SystemExit(f"{name}: {failure}") from failure
        except ImportError as failure:
            raise SystemExit(
                f"{name}: {failure}: install the extra evidence-real, as make evidence REAL=1 does"
            ) from failure
        print(f"{name}: {data.counts()}", flush=True)


@contextmanager
def one_thread_each(workers: int) -> Iterator[Executor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    sys.exit(main())
