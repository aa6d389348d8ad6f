"""`make evidence-tuning`: what the arms leave open, chosen on the validation split with seeds of its own.

Of most arms that is the learning rate; of `searched` it is τ, α and β, found by a search study. Writes
benchmarks/evidence/tuned.json, which the experiments read.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from benchmarks.evidence.experiments import (
    EXPERIMENTS,
    SEARCHED,
    TUNED,
    TUNING_SEEDS,
    Experiment,
    at_rate,
    tuned,
)
from benchmarks.evidence.run import evidence_service, run_study, sources, succeeded
from lit_client import Client
from lit_spec import merged

SEPARATOR = " at "


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.tune", description=__doc__)
    parser.add_argument("--only", default="", help="one experiment")
    arguments = parser.parse_args()
    tunable = [e for e in EXPERIMENTS if e.rates and e.rates_of is None]
    chosen = [experiment for experiment in tunable if arguments.only in ("", experiment.name)]
    if not chosen:
        parser.error(f"{arguments.only} is not tuned: choose one of {', '.join(e.name for e in tunable)}")
    with evidence_service() as client:
        for experiment in chosen:
            found = search(client, experiment) if SEARCHED in experiment.arms else best_rates(client, experiment)
            everything = {**tuned(), experiment.name: found}
            order = [known.name for known in EXPERIMENTS if known.name in everything]
            TUNED.write_text(json.dumps({name: everything[name] for name in order}, indent=1) + "\n")
            print(f"{experiment.name}: {found}", flush=True)
    print(json.dumps({"experiments": len(chosen)}))
    return 0


def search(client: Client, experiment: Experiment) -> dict[str, Any]:
    """τ, α and β of the arm `searched`, in the paper's order over the default grids."""
    job = merged(experiment.request, sources(client, experiment))
    study = run_study(
        client, f"{experiment.name} (search)", {"kind": "search", "job": job, "seeds": list(TUNING_SEEDS)}
    )
    choice = study.choice or {}
    return {SEARCHED: {name: choice[name] for name in ("tau", "alpha", "beta")}}


def best_rates(client: Client, experiment: Experiment) -> dict[str, float]:
    """By arm: the rate with the best mean on the validation split; of equal ones, the lowest."""
    tuned_arms = [arm for arm in experiment.arms if arm not in experiment.untuned]
    plain = replace(experiment, name=f"{experiment.name} (tuning)")  # reads no tuned rate
    arms = [
        {**merged(plain.arm(arm), at_rate(rate)), "name": f"{arm}{SEPARATOR}{rate:g}"}
        for arm in tuned_arms
        for rate in experiment.rates
    ]
    job = merged(experiment.request, sources(client, experiment))
    request = {"kind": "compare", "job": job, "methods": arms, "seeds": list(TUNING_SEEDS)}
    found: dict[tuple[str, float], list[float]] = {}
    for trial in succeeded(client, run_study(client, plain.name, request)):
        arm, _, rate = str((trial.trial or {})["arm"]).partition(SEPARATOR)
        found.setdefault((arm, float(rate)), []).append((trial.result or {})["selected"]["value"])
    means = {key: sum(values) / len(values) for key, values in found.items()}
    return {arm: max(experiment.rates, key=lambda rate: (round(means[arm, rate], 3), -rate)) for arm in tuned_arms}


if __name__ == "__main__":
    sys.exit(main())
