"""`make evidence-tuning`: each arm's learning rate, chosen on the validation split with seeds of its own.

Writes benchmarks/evidence/tuned.json, which the experiments read.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

from benchmarks.evidence.experiments import (
    EXPERIMENTS,
    RATES,
    TUNED,
    TUNING_SEEDS,
    Experiment,
    at_rate,
    tuned,
)
from benchmarks.evidence.run import FOLDER, run_study, sources
from benchmarks.evidence.service import running_service
from lit_client import Client
from lit_core.spec import merged

SEPARATOR = " at "


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.tune", description=__doc__)
    parser.add_argument("--only", default="", help="one experiment")
    arguments = parser.parse_args()
    chosen = [experiment for experiment in EXPERIMENTS if arguments.only in ("", experiment.name)]
    with running_service(FOLDER / "service") as url, Client(url) as client:
        for experiment in chosen:
            rates = best_rates(client, experiment)
            everything = {**tuned(), experiment.name: rates}
            TUNED.write_text(json.dumps(everything, indent=1) + "\n")
            print(f"{experiment.name}: {rates}", flush=True)
    print(json.dumps({"experiments": len(chosen)}))
    return 0


def best_rates(client: Client, experiment: Experiment) -> dict[str, float]:
    """By arm: the rate with the best mean on the validation split; of equal ones, the lowest."""
    plain = replace(experiment, name=f"{experiment.name} (tuning)")  # reads no tuned rate
    arms = [
        {**merged(plain.arm(arm), at_rate(rate)), "name": f"{arm}{SEPARATOR}{rate:g}"}
        for arm in experiment.arms
        for rate in RATES
    ]
    job = merged(experiment.request, sources(client, experiment))
    request = {"kind": "compare", "job": job, "methods": arms, "seeds": list(TUNING_SEEDS)}
    found: dict[tuple[str, float], list[float]] = {}
    for trial in run_study(client, plain.name, request):
        arm, _, rate = str((trial.trial or {})["arm"]).partition(SEPARATOR)
        found.setdefault((arm, float(rate)), []).append((trial.result or {})["selected"]["value"])
    means = {key: sum(values) / len(values) for key, values in found.items()}
    return {arm: max(RATES, key=lambda rate: (means[arm, rate], -rate)) for arm in experiment.arms}


if __name__ == "__main__":
    sys.exit(main())
