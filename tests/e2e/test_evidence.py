"""`make evidence` in short: studies through the service, their rows, the same study again, and one cell anew."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from benchmarks.evidence.experiments import EXPERIMENTS, epochs
from benchmarks.evidence.page import page
from benchmarks.evidence.run import keep, read_runs, row, run_cell, run_experiment
from lit_client import Client
from lit_spec import merged
from tests.e2e.digits import QUICK

DIGITS = next(experiment for experiment in EXPERIMENTS if experiment.name == "digits")
REQUEST = merged(DIGITS.request, {**epochs(1, 1), "student": QUICK, "exports": [], "dataset": {"train_samples": 300}})
SHORT = dataclasses.replace(DIGITS, request=REQUEST, arms=("lit", "kd"), seeds=1)


def test_an_experiment_becomes_a_section_of_the_page_and_a_cell_gives_its_row_again(
    client: Client, tmp_path: Path
) -> None:
    results = tmp_path / "evidence.json"
    keep("digits", run_experiment(client, SHORT), results)
    runs = read_runs(results)
    assert [(run["arm"], run["seed"]) for run in runs] == [("lit", 0), ("kd", 0)]
    assert all(50 < run["accuracy"] <= 100 for run in runs)
    assert [len(run["curve"]["student_accuracy"]) for run in runs] == [2, 2]
    assert "| digits | 98.61 |" in page({"runs": runs})

    # Gone on with, not run again.
    jobs = len(list(client.jobs()))
    keep("digits", run_experiment(client, SHORT), results)
    assert read_runs(results) == runs
    assert len(list(client.jobs())) == jobs

    # On the CPU the same specification gives the same student.
    again = row(client, SHORT, "kd", run_cell(client, SHORT, "kd", 0))
    assert json.dumps(again["curve"]) == json.dumps(runs[1]["curve"])
    assert again["accuracy"] == runs[1]["accuracy"]
