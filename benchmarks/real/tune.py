"""`make evidence-tuning REAL=1`: the learning rates of the arms that have no recipe of their own.

Each rate is tried with seeds of its own, and measured on a validation part of the training samples. The runs stay in
the cache, so the command goes on where it was stopped. Writes benchmarks/real/tuned.json.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.real.cells import Cell, Results, Run, arms_of, run_all
from benchmarks.real.experiments import ARMS, DEFAULT, EXPERIMENTS, TUNED, TUNING_SEEDS, Experiment, tuned
from benchmarks.real.run import WORKERS, fetch, names, one_thread_each, parsed, place_of

LOWER_IS_BETTER = ("kl",)
JUDGED_BY = ("kl", "cosine")
"""The metric of which a run has one. The KL divergence is less noisy than the agreement."""


def main() -> int:
    arguments = parsed(__doc__, "tune")
    chosen = [e for e in EXPERIMENTS if e.rates_of == e.name and arguments.only in ("", e.name)]
    if not chosen:
        raise SystemExit(f"{arguments.only} is no experiment with rates of its own: choose of {names()}")
    rehearsal = arguments.steps is not None
    results = Results.read(arguments.cache / ("tuning-rehearsal.json" if rehearsal else "tuning.json"), place_of)
    fetch({experiment.network for experiment in chosen}, arguments.cache)
    cells = [cell for experiment in chosen for cell in cells_of(experiment, arguments.steps or experiment.steps)]
    with one_thread_each(WORKERS) as executor:
        problems = run_all(cells, results, executor, WORKERS, arguments.cache, again=arguments.again)
    for experiment in chosen:
        rates = best_rates([run for run in results.runs if run["experiment"] == experiment.name])
        print(f"{experiment.name}: {rates}", flush=True)
        if not rehearsal and not problems:
            everything = {**tuned(), experiment.name: rates}
            order = [known.name for known in EXPERIMENTS if known.name in everything]
            TUNED.write_text(json.dumps({name: everything[name] for name in order}, indent=1) + "\n")
    print(json.dumps({"experiments": len(chosen), "runs": len(results.runs), "failed": problems}))
    return 1 if problems else 0


def cells_of(experiment: Experiment, steps: int) -> list[Cell]:
    """The default for each seed, whose blocks the others keep, then each arm at each rate."""
    cells = []
    for seed in TUNING_SEEDS:
        default = Cell(experiment, DEFAULT, seed, steps, tuning=True)
        cells.append(default)
        cells += [replace(default, arm=arm, rate=rate) for arm in arms_of(experiment) for rate in ARMS[arm].rates]
    return cells


def best_rates(runs: Sequence[Run]) -> dict[str, float]:
    """By arm the rate with the best mean; of equal ones the lowest."""
    found: dict[str, dict[float, float]] = {}
    for arm in dict.fromkeys(run["arm"] for run in runs if run["rate"] is not None):
        for rate in sorted({run["rate"] for run in runs if run["arm"] == arm}):
            own = [run for run in runs if run["arm"] == arm and run["rate"] == rate]
            found.setdefault(arm, {})[rate] = statistics.mean(_value(run) for run in own)
    return {arm: max(values, key=lambda rate: (values[rate], -rate)) for arm, values in found.items()}


def _value(run: Run) -> float:
    metric = next(name for name in JUDGED_BY if name in run)
    return float(-run[metric] if metric in LOWER_IS_BETTER else run[metric])


if __name__ == "__main__":
    sys.exit(main())
